"""The sections of a recipe: every field that a run may set, with its type, its default and what it means.

How a recipe is read from YAML, and how a mistake in one is explained, is in `core.recipe`; what an empty field becomes
is decided in `training.resolve`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MOST_STEPS = 999_999_999
"""The names of checkpoints have nine digits."""

INT64 = 1 << 63


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, and so are values of the wrong type."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_assignment=True, allow_inf_nan=False)


class PicturesRecipe(Section):
    """Pictures of coloured shapes that the run draws for itself, as `zhixing data pictures` does."""

    count: int = Field(4000, ge=1, le=1_000_000, description="pictures to train on")
    unseen: int = Field(500, ge=1, le=1_000_000, description="held-out pictures, of combinations never trained on")
    side: int = Field(64, ge=32, le=1024, description="height and width in pixels")
    seed: int = Field(0, ge=0, lt=INT64)
    language: Literal["en", "zh"] = "en"


class DataRecipe(Section):
    """Where the text comes from and how it is divided."""

    paths: list[str] = Field(default_factory=list, description="files, folders and globs")
    validation_paths: list[str] = Field(
        default_factory=list, description="records held out; none: a share of data.paths by the hash of their content"
    )
    columns: dict[str, str] | None = Field(
        None, description="which column holds which role of a record, such as {text: review, label: stars}"
    )
    too_long: Literal["cut", "drop", "refuse"] = Field(
        "cut", description="records longer than the model reads: cut or dropped, counted and said; or an error"
    )
    licence: str | None = Field(None, description="the terms of the records, for the model card")
    skip_faulty: bool = Field(
        False, description="leave records out that are wrong, counted and said, instead of stopping"
    )
    pictures: PicturesRecipe | None = Field(None, description="caption: draw pictures of shapes instead of data.paths")
    field: str | None = Field(None, description="column or key that holds the text; null: found by looking")
    split: Literal["document", "tail"] = Field(
        "document", description="hold out whole documents, or the last characters"
    )
    validation_fraction: float = Field(0.05, gt=0, lt=1)
    separator: bool = Field(True, description="put the end-of-text token after every document")
    within_documents: bool = Field(False, description="limit attention to the document that a token belongs to")
    order: Literal["shuffle", "random"] = Field("shuffle", description="every block once an epoch, or random offsets")
    seed: int = Field(0, ge=-INT64, lt=INT64)


class TokenizerRecipe(Section):
    """The tokenizer to train, or the one to use."""

    path: str | None = Field(None, description="use this tokenizer (or a model's) instead of training one")
    kind: Literal["byte-bpe", "unigram", "wordpiece", "character", "byte"] = "byte-bpe"
    vocab_size: int | None = Field(None, ge=1, description="default: 8192; bytes and characters: as many as there are")
    special_tokens: list[str] | None = Field(None, description="default: an end-of-text token, and what the kind needs")
    sample_bytes: int | None = Field(None, ge=1, description="learn from at most this much text, sampled evenly")
    lowercase: bool = Field(False, description="wordpiece: read without case and accents, as the uncased BERT models")
    add_tokens: list[str] = Field(
        default_factory=list, description="tokens that the tokenizer of model.start gets in addition"
    )


class ModelRecipe(Section):
    """The network. Everything that is null follows from `depth`, or from the model that `start` names."""

    start: str | None = Field(None, description="a model to go on from: a name of the catalogue, a folder, a run")
    freeze: int = Field(0, ge=0, le=1000, description="layers that stay as they are, from the first; needs start")
    freeze_embeddings: bool = Field(False, description="the embedding tables stay as they are; needs start")
    head_dropout: float | None = Field(None, ge=0, lt=1, description="in front of the head's last layer")
    word_dropout: float = Field(0.0, ge=0, lt=1, description="share of the words hidden from the network in training")
    family: str = Field("nanochat", description="layout of the saved model")
    depth: int = Field(4, ge=1, le=1000, description="the one dial: number of layers")
    decoder_depth: int | None = Field(
        None, ge=1, le=1000, description="layers of the decoder behind an encoder; default: depth"
    )
    width: int | None = Field(None, ge=1, description="default: 64 * depth")
    head_dim: int | None = Field(None, ge=1, description="default: 64, or 32 for narrow models")
    heads: int | None = Field(None, ge=1, description="default: width / head_dim")
    kv_heads: int | None = Field(None, ge=1, description="default: heads")
    mlp_width: int | None = Field(None, ge=1, description="default: 4 * width, or 8/3 of it when gated")
    context: int = Field(256, ge=2, description="longest sequence, in tokens")
    hidden: int | None = Field(None, ge=1, description="rnn, lstm, gru: size of the state; default: width")
    attention: Literal["luong", "bahdanau"] | None = Field(
        None, description="whose attention a recurrent encoder-decoder has; default: luong"
    )
    order: int | None = Field(None, ge=1, description="ngram: length of the longest n-grams; default: 5")
    count_memory: int | None = Field(None, ge=1, description="ngram: bytes for sorting while counting; default: 1 GiB")
    tied: bool | None = Field(None, description="share embedding and output matrix; default: as the family does")
    logit_softcap: float | None = Field(None, gt=0)
    rope_theta: float | None = Field(None, gt=0)
    dropout: float | None = Field(
        None, ge=0, lt=1, description="of what each layer adds; default: as in model.start, without one 0"
    )
    attention_dropout: float | None = Field(None, ge=0, lt=1, description="of attention weights; likewise")
    init_std: float | None = Field(None, gt=0, description="default: 1/sqrt(fan_in)")
    image_size: int | None = Field(None, ge=1, le=4096, description="caption: height and width of images; default: 64")
    patch_size: int | None = Field(None, ge=1, description="caption: side of a patch; default: an eighth of the image")
    image_depth: int | None = Field(None, ge=1, le=1000, description="caption: layers that read; default: depth")
    embeddings: str | None = Field(None, description="word vectors that the embedding table starts from")
    zero_init_outputs: bool = True

    @property
    def named_dropout(self) -> dict[str, Any]:
        """The dropout that is named; in a network that goes on from `start` all other stays as it is there."""
        given = {"dropout": self.dropout, "attention_dropout": self.attention_dropout}
        return {key: value for key, value in given.items() if value is not None}


class TuneRecipe(Section):
    """Which weights of `model.start` are trained, and how the others are kept."""

    method: Literal["full", "lora", "last", "prompt"] = Field(
        "full", description="all weights; low-rank adapters; the last layers; learned tokens in front of each text"
    )
    rank: int = Field(16, ge=1, description="lora")
    alpha: float | None = Field(None, gt=0, description="lora: scale times the rank; default: twice the rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="lora: share of the adapters' input that is zeroed")
    rslora: bool = Field(False, description="lora: scale by the rank's root instead of the rank")
    dora: bool = Field(False, description="lora: learn the length of each row by itself")
    targets: list[str] | None = Field(
        None,
        description="lora: which linear maps, such as [attention.query, mlp.down] or [q_proj, down_proj];"
        " default: all in the blocks",
    )
    bits: Literal["int8", "int4"] | None = Field(None, description="keep what is frozen in so few bits (QLoRA)")
    layers: int = Field(2, ge=1, le=1000, description="last: how many")
    prompt_tokens: int = Field(20, ge=1, le=4096, description="prompt: how many learned tokens")
    prompt_text: str | None = Field(None, description="prompt: a text whose tokens they start from")
    publish: Literal["adapter", "merged"] = Field(
        "adapter", description="lora: write the adapter in PEFT's layout, or the whole model with it folded in"
    )
    rope_scaling: Literal["linear", "dynamic", "yarn"] | None = Field(
        None, description="how positions are stretched when model.context is longer than the model's own"
    )


class OptimizerRecipe(Section):
    """AdamW for everything, or Muon for the matrices and AdamW for the rest."""

    name: Literal["muon", "adamw"] = "muon"
    learning_rate: float | None = Field(None, gt=0, description="AdamW's, for all that Muon does not train")
    head_learning_rate: float | None = Field(None, gt=0, description="AdamW's, for a separate output head")
    matrix_learning_rate: float | None = Field(None, gt=0, description="Muon's")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's, of matrices; never of norms and biases")
    decay_embeddings: bool = Field(True, description="whether weight_decay also holds for embedding tables")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="AdamW's rate of a layer is that of the next one times this"
    )
    mixout: float = Field(
        0.0, ge=0, lt=1, description="share of the weights that each step takes from model.start instead (mixout)"
    )
    matrix_weight_decay: float = Field(0.0, ge=0)
    beta1: float = Field(0.8, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-10, gt=0)
    momentum: float = Field(0.95, ge=0, lt=1, description="Muon's")
    attention_scale: float = Field(1.0, gt=0, description="factor on Muon's rate for the attention's matrices")
    newton_schulz_steps: int = Field(3, ge=1, le=10)
    newton_schulz_bound: float = Field(0.005, gt=0, lt=1, description="smallest relative singular value brought to one")


class ScheduleRecipe(Section):
    """The learning rate over the run, as a share of its peak."""

    shape: Literal["cosine", "linear", "wsd", "constant"] = "wsd"
    warmup_steps: int = Field(0, ge=0)
    decay_fraction: float = Field(0.5, ge=0, le=1, description="wsd: share of the run that decays linearly")
    final: float = Field(0.0, ge=0, le=1, description="share of the peak at the end")


def _number(value: Any) -> Any:
    """Reads yes and no as one and none."""
    return int(value) if isinstance(value, bool) else value


class TrainRecipe(Section):
    """The loop."""

    objective: str = "causal"
    steps: int | None = Field(None, ge=1, le=MOST_STEPS, description="optimizer steps")
    epochs: float | None = Field(None, gt=0, description="instead of steps: passes over the records")
    tokens: int | None = Field(None, ge=1, lt=INT64, description="instead of steps: training tokens")
    minutes: float | None = Field(None, gt=0, description="instead of steps: time, from a measured step")
    flops: float | None = Field(None, gt=0, description="instead of steps: floating-point operations of training")
    batch_size: int | None = Field(None, ge=1, description="sequences in one forward pass")
    batch_tokens: int | None = Field(
        None, ge=1, description="records, instead of batch_size: tokens in one forward pass, whatever the lengths"
    )
    best: str | None = Field(
        None,
        description="the measure whose best checkpoint is kept: loss, or one of the objective's; default: its first",
    )
    patience: int | None = Field(None, ge=1, description="stop after so many measurements without a better one")
    accumulate: int = Field(1, ge=1, description="forward passes per optimizer step")
    block: int | None = Field(None, ge=1, description="tokens per sequence; default: model.context")
    clip: float | None = Field(1.0, gt=0, allow_inf_nan=True, description="largest gradient norm")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    matmul: Literal["auto", "torch", "onednn", "mixed", "forward"] = Field(
        "auto",
        description="library of float32 products on a CPU; mixed: not for gradients of weights; forward: for none",
    )
    threads: int | None = Field(None, ge=1, description="default: as many as torch takes; rounding depends on it")
    compile: bool = False
    checkpoint_activations: Annotated[int, BeforeValidator(_number)] = Field(
        0,
        ge=0,
        description="compute activations again for the gradient instead of keeping them, which takes a third more time:"
        " true, or only in forward passes of at least so many tokens",
    )
    average_decay: float | None = Field(None, gt=0, lt=1, description="keep an exponential average of the weights")
    average_last: int = Field(1, ge=1, le=100, description="publish the mean of so many of the last kept checkpoints")
    seed: int = Field(0, ge=-INT64, lt=INT64)
    device: str = "auto"
    log_every: int = Field(10, ge=1)
    validate_every: int | None = Field(None, ge=1, description="steps; default: a tenth of the run")
    validation_tokens: int | None = Field(
        None,
        ge=1,
        description="held-out tokens measured on the way; default: a hundredth of the run's, 8,192 to 200,000",
    )
    evaluation_tokens: int = Field(200_000, ge=1, description="held-out tokens measured at the end")
    save_every: int | None = Field(None, ge=1, description="steps; default: with each validation")
    keep: int = Field(2, ge=1, description="newest checkpoints to keep, beside the best")
    keep_every: int | None = Field(None, ge=1, description="also keep every checkpoint at a multiple of this")
    spike: float = Field(
        3.0, gt=1, allow_inf_nan=True, description="stop when the loss exceeds its running mean by this factor"
    )


class RewardRecipe(Section):
    """One reward of reinforcement learning; what each kind does is in `training.rewards`."""

    kind: str = Field(description="number, pattern, schema, tests, model or function")
    weight: float = Field(1.0, description="its part in the sum; 0: measured and shown, not trained on")
    field: str | None = Field(None, description="number, tests: the record's field to compare with; default: answer")
    pattern: str | None = Field(None, description="pattern: a regular expression")
    whole: bool = Field(False, description="pattern: match the whole answer; tests: a part of them is worth nothing")
    json_schema: dict[str, Any] | None = Field(None, description="schema: the JSON schema")
    function: str | None = Field(None, description="function: your own, as MODULE:FUNCTION")
    model: str | None = Field(None, description="model: the reward model")
    isolation: Literal["auto", "namespaces", "landlock", "limits"] = Field(
        "auto", description="tests: how code is locked in; limits: not at all but for its size"
    )


class TaskRecipe(Section):
    """What an objective on records is told beside its records. Each objective knows some of these (docs/objectives.md);
    setting another one is an error."""

    problem: Literal["single", "multi"] | None = Field(
        None, description="classification: one label each, or any number; default: as the records have it"
    )
    labels: list[str] | None = Field(None, description="the labels in order; default: those of the training records")
    class_weights: Literal["balanced"] | dict[str, float] | None = Field(
        None, description="how much each label counts; balanced: in inverse proportion to its frequency"
    )
    focal: float = Field(0.0, ge=0, description="focal loss: exponent of (1 - p) (Lin et al. 2017); 0 is off")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each target spread over all labels")
    beams: int | None = Field(
        None, ge=1, le=64, description="seq2seq: beams that held-out texts are written with in the end; default: 4"
    )
    length_penalty: float = Field(1.0, ge=0, le=10, description="seq2seq: of beam search; above 0 favours longer ones")
    noise: float | None = Field(
        None, gt=0, le=0.5, description="span-corruption, denoising: share of the tokens taken out; default: 0.15, 0.3"
    )
    mean_span: float | None = Field(
        None, ge=1, le=100, description="span-corruption, denoising: mean length of what is taken out; default: 3"
    )
    permute_sentences: bool = Field(True, description="denoising: put sentences into another order")
    prefix: str | None = Field(None, description="seq2seq: what stands before every source, as T5 is told its task")
    r_drop: float = Field(0.0, ge=0, description="weight of the agreement of two passes under dropout (R-Drop)")
    summary: Literal["first", "mean", "max", "mean_sqrt"] | None = Field(
        None, description="what a sequence's label is read from: the first token's vector, or all of them pooled"
    )
    beta: float | None = Field(
        None, ge=0, description="preferences, policies: how closely the model is held to the one that it began as"
    )
    margin: float = Field(1.0, ge=0, description="simpo: how far the better answer should lead")
    good_weight: float = Field(1.0, ge=0, description="kto: weight of good answers")
    bad_weight: float = Field(1.0, ge=0, description="kto: weight of bad answers")
    rewards: list[RewardRecipe] | None = Field(None, description="policies: what an answer is worth")
    samples: int = Field(8, ge=1, le=1024, description="policies: answers to each prompt")
    temperature: float = Field(1.0, gt=0, description="policies: of drawing answers; distill: of both predictions")
    max_tokens: int = Field(256, ge=1, description="policies: longest answer")
    reuse: int = Field(1, ge=1, le=64, description="policies: steps that are made with the same answers")
    clip_low: float = Field(0.2, gt=0, lt=1, description="grpo: how far a probability may fall with the same answers")
    clip_high: float = Field(0.2, gt=0, description="grpo: how far it may rise")
    scale_rewards: bool = Field(True, description="grpo: divide advantages by the deviation of their group")
    teacher: str | None = Field(None, description="distill: the model to learn from, of the same tokenizer")
    divergence: Literal["forward", "reverse"] = Field(
        "forward", description="distill: cover all that the teacher would say, or give up what cannot be followed"
    )
    hard_weight: float = Field(0.0, ge=0, lt=1, description="distill: share of the plain cross-entropy in the loss")
    top_k: int | None = Field(
        None, ge=1, le=4096, description="distill: ask the teacher once, and keep so many of its likeliest tokens"
    )
    scheme: Literal["BIO", "BIOES", "none"] | None = Field(
        None, description="tagging: how chunks are written for the network; none: a class of its own for each word"
    )
    crf: bool = Field(False, description="tagging: score tags as a chain (conditional random field)")
    stride: int | None = Field(None, ge=1, description="windows over long texts: tokens that the next one moves on")
    longest_answer: int = Field(64, ge=1, description="span: tokens of the longest answer that is given")
    mask_share: float = Field(0.15, gt=0, lt=1, description="masked, replaced: share of the tokens that are hidden")
    whole_word: bool = Field(True, description="masked, replaced: hide whole words, Chinese ones too")
    generator_share: float = Field(0.5, gt=0, le=1, description="replaced: width of the generator, as a share")
    replaced_weight: float = Field(50.0, gt=0, description="replaced: weight of the discriminator's loss")
    similarity_temperature: float = Field(0.05, gt=0, description="contrastive: what cosines are divided by")
    matryoshka: list[int] = Field(
        default_factory=list, description="contrastive: leading sizes of the vectors that are to be useful alone"
    )
