"""Measures that compare what a model put out with what was wanted, as the field computes them.

`registry.score` measures by name, `resampling` gives the intervals, `significance` compares two systems. Bits per byte
and perplexity are computed from the model in `evaluation.language_modelling`; here they only get their intervals. No
torch.

    from zhixing.evaluation.metrics.registry import score
    for result in score("bleu,chrf", hypotheses, references):
        print(result.name, result.value, result.interval, result.signature)
"""
