"""Crafted files, each with what is wrong in it and what a mended copy holds."""
# ruff: noqa: E501 - one line for each part of a case is read more easily

import gzip
import json

GOOD = [{"messages": [{"role": "user", "content": f"What is {k} + {k}?"}, {"role": "assistant", "content": f"It is {2 * k}."}]}
        for k in range(1, 4)]  # fmt: skip
ALPACA = [
    {"instruction": f"Name animal number {k}", "input": "", "output": f"animal {chr(96 + k)}"} for k in range(1, 4)
]
PREFERENCES = [{"prompt": f"Question {k}?", "chosen": f"good {k}", "rejected": f"bad {k}"} for k in range(1, 4)]
LABELLED = [
    {"text": f"a text about {word}", "label": label} for word, label in zip(("sun", "rain", "snow"), "aba", strict=True)
]
LONG = "the quick brown fox jumps over the lazy dog while the cat sleeps on the warm stone wall of the old garden"


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def chat(*turns):
    return {"messages": [turn("user" if k % 2 == 0 else "assistant", text) if isinstance(text, str) else text
                         for k, text in enumerate(turns)]}  # fmt: skip


def line(row):
    return json.dumps(row, ensure_ascii=False) + "\n"


def jsonl(*rows):
    return "".join(row if isinstance(row, str) else line(row) for row in rows)


CALL = {"name": "add", "arguments": {"a": 1}}
HH = "\n\nHuman: Which is {0}?\n\nAssistant: {1}"
SQUAD = {"version": "1", "data": [{"title": "t", "paragraphs": [{"context": "Paris is in France. France is big.", "qas": [
    {"id": "1", "question": "Where?", "answers": [{"text": "France", "answer_start": 11}]},
    {"id": "2", "question": "", "answers": [{"text": "Paris", "answer_start": 0}]},
    {"id": "3", "question": "Which?", "answers": [{"text": "Rome", "answer_start": 0}]},
    {"id": "4", "question": "What is big?", "answers": [{"text": "France", "answer_start": 20}]},
]}]}]}  # fmt: skip


def squad_mended():
    mended = json.loads(json.dumps(SQUAD))
    questions = mended["data"][0]["paragraphs"][0]["qas"]
    questions[0]["answers"][0]["answer_start"] = 12
    del questions[1:3]
    return mended


# name: file, content, findings as (kind, line), mended content
CASES = {
    "good chat": ("x.jsonl", jsonl(*GOOD), [], jsonl(*GOOD)),
    "no answer at the end": (
        "x.jsonl", jsonl(*GOOD, chat("One?", "1", "Two?")), [("missing_turn", 4)], jsonl(*GOOD, chat("One?", "1"))),
    "nothing but a question": ("x.jsonl", jsonl(*GOOD, chat("One?")), [("missing_turn", 4)], jsonl(*GOOD)),
    "the assistant begins": (
        "x.jsonl", jsonl(GOOD[0], {"messages": [turn("assistant", "Hello."), *GOOD[1]["messages"]]}),
        [("missing_turn", 2)], jsonl(GOOD[0], GOOD[1])),
    "a turn twice": (
        "x.jsonl", jsonl(GOOD[0], {"messages": [GOOD[1]["messages"][0], *GOOD[1]["messages"]]}), [("repeated_turn", 2)],
        jsonl(GOOD[0], GOOD[1])),
    "two turns of one speaker": (
        "x.jsonl", jsonl(GOOD[0], {"messages": [turn("user", "Hi."), turn("user", "One?"), turn("assistant", "1")]}),
        [("repeated_turn", 2)], jsonl(GOOD[0], chat("Hi.\n\nOne?", "1"))),
    "an empty answer in the middle": (
        "x.jsonl", jsonl(GOOD[0], chat("One?", "1", "Two?", " ", "Three?", "3")), [("empty", 2)],
        jsonl(GOOD[0], chat("One?", "1"))),
    "an empty question": ("x.jsonl", jsonl(GOOD[0], chat("", "1"), GOOD[1]), [("empty", 2)], jsonl(*GOOD[:2])),
    "the system in the middle": (
        "x.jsonl", jsonl(GOOD[0], {"messages": [GOOD[1]["messages"][0], turn("system", "Be brief."), GOOD[1]["messages"][1]]}),
        [("turn_order", 2)], jsonl(GOOD[0], {"messages": [turn("system", "Be brief."), *GOOD[1]["messages"]]})),
    "a tool that was not called": (
        "x.jsonl", jsonl(GOOD[0], chat("One?", "1", "Two?", turn("tool", "2"), turn("assistant", "2"))), [("turn_order", 2)],
        jsonl(GOOD[0], chat("One?", "1"))),
    "a call without its answer": (
        "x.json", [{"conversations": [{"from": "human", "value": "Add"}, {"from": "function_call", "value": json.dumps(CALL)},
                                      {"from": "gpt", "value": "1"}]}, {"conversations": [
                                          {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}],
        [("missing_turn", 2)], [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}]),
    "an unknown role": (
        "x.jsonl", jsonl(*GOOD, {"messages": [turn("robot", "One?"), turn("assistant", "1")]}), [("misfit", 4)], jsonl(*GOOD)),
    "an empty output": ("x.json", [*ALPACA, {**ALPACA[0], "output": ""}], [("empty", 17)], ALPACA),
    "no output at all": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "Do it", "input": ""}), [("misfit", 4)], jsonl(*ALPACA)),
    "exact duplicates": ("x.jsonl", jsonl(*ALPACA, ALPACA[1]), [("duplicate", 4)], jsonl(*ALPACA)),
    "near duplicates": (
        "x.jsonl", jsonl({"text": LONG}, {"text": LONG.replace("quick", "Quick") + "!"}, {"text": LONG[::-1]}),
        [("near_duplicate", 2)], jsonl({"text": LONG}, {"text": LONG[::-1]})),
    "the same prompt, another answer": (
        "x.jsonl", jsonl({"prompt": LONG, "completion": "One answer to it, quite long as answers go."},
                         {"prompt": LONG, "completion": "Something else entirely is said in this one."}), [], None),
    "special tokens": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "Go", "input": "", "output": "Gone.<|endoftext|>"}), [("special", 4)],
        jsonl(*ALPACA, {"instruction": "Go", "input": "", "output": "Gone."})),
    "special tokens in code": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "Show it", "input": "", "output": "Write `</s>` here."}), [], None),
    "mojibake": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "Order", "input": "", "output": "A cafÃ© â€“ voilÃ\xa0, ä¸­æ–‡"}),
        [("mojibake", 4)], jsonl(*ALPACA, {"instruction": "Order", "input": "", "output": "A café – voilà, 中文"})),
    "French that is right": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "Commander", "input": "", "output": "Un café très «âgé», voilà à ô où ÀÉ"}),
        [], None),
    "control characters": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "Go\u0000 on", "input": "", "output": "\ufeffWent\x07 on"}),
        [("control", 4), ("control", 4)], jsonl(*ALPACA, {"instruction": "Go on", "input": "", "output": "Went on"})),
    "half a character": (
        "x.jsonl", jsonl(*ALPACA) + '{"instruction": "Smile", "input": "", "output": "smile \\ud83d!"}\n', [("control", 4)],
        jsonl(*ALPACA, {"instruction": "Smile", "input": "", "output": "smile !"})),
    "lost characters": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "Go", "input": "", "output": "caf\ufffd"}), [("lost", 4)], None),
    "a Latin line": (
        "x.jsonl", jsonl(*ALPACA).encode() + line({"instruction": "Café", "input": "", "output": "là"}).encode("cp1252"),
        [("encoding", 4)], jsonl(*ALPACA, {"instruction": "Café", "input": "", "output": "là"})),
    "a line in GB18030": (
        "x.jsonl", jsonl(*ALPACA).encode() + line({"instruction": "今天的天气怎么样", "input": "", "output": "今天是一个好天气"}).encode("gb18030"),
        [("encoding", 4)], jsonl(*ALPACA, {"instruction": "今天的天气怎么样", "input": "", "output": "今天是一个好天气"})),
    "UTF-16": ("x.jsonl", jsonl(*ALPACA).encode("utf-16"), [("encoding", 1)], jsonl(*ALPACA)),
    "an unfilled placeholder": (
        "x.json", [{"instruction": "hi", "input": "", "output": "I am {{name}}."}, *ALPACA], [("placeholder", 2)], None),
    "broken JSON": ("x.jsonl", jsonl(*GOOD, '{"messages": [{"role"\n'), [("json", 4)], jsonl(*GOOD)),
    "an array that breaks off": (
        "x.json", json.dumps([*ALPACA, {"instruction": "Go"}], indent=1)[:-12], [("json", 17)], ALPACA),
    "a tab within a text": (
        "x.jsonl", jsonl(*ALPACA, '{"instruction": "a\tb", "input": null, "output": "c d"}\n'), [("json", 4)],
        jsonl(*ALPACA, {"instruction": "a\tb", "input": None, "output": "c d"})),
    "a comma too many": (
        "x.jsonl", jsonl(GOOD[0], line(GOOD[1]).replace("\n", ",\n"), GOOD[2]), [("json", 2)], jsonl(*GOOD)),
    "an array cut into lines": (
        "x.jsonl", "[" + line(GOOD[0]).replace("\n", ",\n") + jsonl(GOOD[1]), [("json", 1)], jsonl(*GOOD[:2])),
    "Python's way of writing": (
        "x.jsonl", jsonl(GOOD[0], f"{GOOD[1]}\n"), [("json", 2)], jsonl(*GOOD[:2])),
    "personal data": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "Write to jane.doe@acme.io, +49 170 1234987", "input": "", "output": "张三 13812345670"}),
        [("personal", 4)] * 3,
        jsonl(*ALPACA, {"instruction": "Write to <email>, <phone>", "input": "", "output": "张三 <phone>"})),
    "identity, card, key and address": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "身份证 11010519491231002X 4111-1111-1111-1234 4242 4242 4242 4242", "input": "",
                                   "output": f"from 93.184.216.34, with sk-{'a1B2' * 6}"}), [("personal", 4)] * 4,
        jsonl(*ALPACA, {"instruction": "身份证 <id> 4111-1111-1111-1234 <card>", "input": "", "output": "from <ip>, with <secret>"})),
    "numbers that are nobody's": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "192.168.0.1 user@example.com v1.2.3.4 2024-01-15", "input": "12345678901234567890",
                                   "output": "555-0123, 3.14159265358979, 127.0.0.1, 100000000000"}), [], None),
    "preferences that contradict": (
        "x.jsonl", jsonl(*PREFERENCES, {"prompt": "Question 2?", "chosen": "bad 2", "rejected": "good 2"}),
        [("contradiction", 2), ("contradiction", 4)], jsonl(PREFERENCES[0], PREFERENCES[2])),
    "chosen and rejected the same": (
        "x.jsonl", jsonl(*PREFERENCES, {"prompt": "Q?", "chosen": "x", "rejected": "x"}), [("misfit", 4)], jsonl(*PREFERENCES)),
    "dialogues that only differ at the end": (
        "x.jsonl", jsonl({"chosen": HH.format("it", "this"), "rejected": HH.format("it", "that")},
                         {"chosen": HH.format("he", ""), "rejected": HH.format("he", "that")}), [("empty", 2)],
        jsonl({"chosen": HH.format("it", "this"), "rejected": HH.format("it", "that")})),
    "a prompt that ends with the assistant": (
        "x.jsonl", jsonl(*({"prompt": GOOD[k]["messages"][:end], "chosen": "a", "rejected": "b"} for k, end in ((0, 1), (1, 2)))),
        [("missing_turn", 2)], jsonl({"prompt": GOOD[0]["messages"][:1], "chosen": "a", "rejected": "b"})),
    "KTO that contradicts": (
        "x.jsonl", jsonl(*({"prompt": q, "completion": "yes", "label": label} for q, label in (("A?", True), ("B?", True), ("A?", False)))),
        [("contradiction", 1), ("contradiction", 3)], jsonl({"prompt": "B?", "completion": "yes", "label": True})),
    "one text, two labels": (
        "x.jsonl", jsonl(*LABELLED, {"text": "a text about rain", "label": "a"}), [("contradiction", 2), ("contradiction", 4)],
        jsonl(LABELLED[0], LABELLED[2])),
    "labels in several ways": (
        "x.csv", "text,label\none sunny day,good\ntwo grey days,Good\nthree days,good\nfour days,bad\n", [("label", 3)],
        "text,label\none sunny day,good\ntwo grey days,good\nthree days,good\nfour days,bad\n"),
    "a row with a cell too few": (
        "x.csv", 'source,target\r\none,eins\r\ntwo\r\n"a\nb","c, d"\r\n', [("table", 3)],
        'source,target\r\none,eins\r\n"a\nb","c, d"\r\n'),
    "untranslated": (
        "x.tsv", "source\ttarget\none dog\tein Hund\ntwo\ttwo\nthree cats\t\n", [("same", 3), ("empty", 4)],
        "source\ttarget\none dog\tein Hund\n"),
    "entities that begin with I": (
        "x.conll", "EU B-ORG\nis O\n\nPeter I-PER\nSmith I-PER\n\nA O\nB B-X\nC I-X\n", [("tag", 4)],
        "EU B-ORG\nis O\n\nPeter B-PER\nSmith I-PER\n\nA O\nB B-X\nC I-X\n"),
    "one sentence, two taggings": (
        "x.conll", "EU B-ORG\nis O\n\nEU O\nis O\n\nA B-X\nB I-X\n\n", [("contradiction", 1), ("contradiction", 4)],
        "A B-X\nB I-X\n\n"),
    "a broken line of tags": (
        "x.conll", "EU B-ORG\nis O\n\nbroken\nhe O\n\n" + "A B-X\nB I-X\n\nC O\nD O\n\n" * 1 + "".join(
            f"w{k} O\nv{k} B-Y\n\n" for k in range(12)), [("table", 4)],
        "EU B-ORG\nis O\n\n" + "A B-X\nB I-X\n\nC O\nD O\n\n" + "".join(f"w{k} O\nv{k} B-Y\n\n" for k in range(12))),
    "answers out of place": (
        "x.json", SQUAD, [("offset", 1), ("empty", 1), ("misfit", 1)], squad_mended()),
    "fastText lines": (
        "x.txt", "".join(f"__label__{'ab'[k % 2]} text number {k}\n" for k in range(30)) + "__label__a text number 0\n",
        [("duplicate", 31)], "".join(f"__label__{'ab'[k % 2]} text number {k}\n" for k in range(30))),
    "compressed": ("x.jsonl.gz", gzip.compress(jsonl(*ALPACA, ALPACA[0]).encode()), [("duplicate", 4)], jsonl(*ALPACA)),
    "plain text": (
        "x.txt", f"A paragraph of its own.\n\n{LONG} {LONG}\n\nYes.\nYes.\n\n{LONG} {LONG}\nends with cafÃ©\n",
        [("duplicate", 8), ("mojibake", 9)], f"A paragraph of its own.\n\n{LONG} {LONG}\n\nYes.\nYes.\n\nends with café\n"),
    "mojibake twice over": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "Order", "input": "", "output": "A caf\u00c3\u0192\u00c2\u00a9"}),
        [("mojibake", 4)], jsonl(*ALPACA, {"instruction": "Order", "input": "", "output": "A caf\u00e9"})),
    "Chinese that was read as GBK": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "打个招呼", "input": "", "output": "浣犲ソ涓栫晫。"},
                         {"instruction": "联通的天气", "input": "", "output": "so: 浠婂ぉ澶╂皵!"}), [("mojibake", 4), ("mojibake", 5)],
        jsonl(*ALPACA, {"instruction": "打个招呼", "input": "", "output": "你好世界。"},
              {"instruction": "联通的天气", "input": "", "output": "so: 今天天气!"})),
    "Big5": (
        "x.txt", ("今天的天氣很好，我們去公園玩。\n" * 3).encode("big5"), [("encoding", k) for k in (1, 2, 3)],
        "今天的天氣很好，我們去公園玩。\n" * 3),
    "Shift-JIS": (
        "x.txt", ("今日はとても天気がいいので、公園へ行きました。\n" * 2).encode("shift_jis"), [("encoding", 1), ("encoding", 2)],
        "今日はとても天気がいいので、公園へ行きました。\n" * 2),
    "Korean in EUC-KR": (
        "x.txt", "오늘은 날씨가 좋아서 공원에 갔습니다.\n".encode("euc_kr"), [("encoding", 1)], "오늘은 날씨가 좋아서 공원에 갔습니다.\n"),
    "bytes of no language": (
        "x.txt", b"good line\nbad \x81\x8d\x8f\x90 line\n", [("encoding", 2), ("lost", 2)],
        "good line\nbad \ufffd\ufffd\ufffd\ufffd line\n"),
    "mail and telephones in Chinese": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "邮箱zhang.san@qq.com，电话010-62785001", "input": "", "output": "收到"}),
        [("personal", 4)] * 2, jsonl(*ALPACA, {"instruction": "邮箱<email>，电话<phone>", "input": "", "output": "收到"})),
    "account numbers and IPv6": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "Pay to DE89 3704 0044 0532 0130 00 at 12:30:45", "input": "",
                                   "output": "from 2001:4860:4860::8844, not DE00 3704 0044 0532 0130 00 or ::1"}), [("personal", 4)] * 2,
        jsonl(*ALPACA, {"instruction": "Pay to <id> at 12:30:45", "input": "",
                        "output": "from <ip>, not DE00 3704 0044 0532 0130 00 or ::1"})),
    "a quotation mark that is never closed": (
        "x.csv", 'text,label\na fine day,good\n"unclosed, bad\nnext day,good\n"two\nlines",bad\nlast day,bad\n', [("table", 3)],
        'text,label\na fine day,good\nnext day,good\n"two\nlines",bad\nlast day,bad\n'),
    "the names of the columns again": (
        "x.csv", "text,label\na fine day,good\ntext,label\na grey day,bad\n", [("table", 3)],
        "text,label\na fine day,good\na grey day,bad\n"),
    "two records on a line": (
        "x.jsonl", line(GOOD[0]) + line(GOOD[1]).strip() + line(GOOD[2]), [("json", 2)], jsonl(*GOOD)),
    "chosen and rejected the same but for a space": (
        "x.jsonl", jsonl(*PREFERENCES, {"prompt": "Q?", "chosen": "x ", "rejected": "x"}), [("misfit", 4)], jsonl(*PREFERENCES)),
    "preferences in a circle": (
        "x.jsonl", jsonl(*({"prompt": "Q?", "chosen": a, "rejected": b} for a, b in (("x1", "y2"), ("y2", "z3"), ("z3", "x1"))),
                         *PREFERENCES), [("contradiction", k) for k in (1, 2, 3)], jsonl(*PREFERENCES)),
    "preferences in a row": (
        "x.jsonl", jsonl(*({"prompt": "Q?", "chosen": a, "rejected": b} for a, b in (("x1", "y2"), ("y2", "z3"), ("x1", "z3")))), [],
        None),
    "an answer at place -1": (
        "x.jsonl", jsonl(*({"context": "Paris is in France.", "question": q, "answers": {"text": [t], "answer_start": [k]}}
                           for q, t, k in (("Where?", "France", 12), ("What?", "France", -1)))), [("offset", 2)],
        jsonl(*({"context": "Paris is in France.", "question": q, "answers": {"text": ["France"], "answer_start": [12]}}
                for q in ("Where?", "What?")))),
    "a short file of tags with a broken line": (
        "x.conll", "EU B-ORG\nrejects O\n\nPeter B-PER\nBlackburn\n\nhe O\nis O\n\nA O\nB B-X\nC I-X\n", [("table", 5)],
        "EU B-ORG\nrejects O\n\nhe O\nis O\n\nA O\nB B-X\nC I-X\n"),
    "a number for an answer": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "1 + 1?", "input": "", "output": 2}), [("misfit", 4)], jsonl(*ALPACA)),
    "a byte-order mark in the middle": (
        "x.jsonl", jsonl(GOOD[0], "\ufeff" + line(GOOD[1]), line(GOOD[2]).strip() + "\0\0\n"), [("json", 2), ("json", 3)], jsonl(*GOOD)),
    "a record broken over lines": (
        "x.jsonl", jsonl(GOOD[0], line(GOOD[1]).replace("What is", "What\nis"), GOOD[2]), [("json", 2)],
        jsonl(GOOD[0], chat("What\nis 2 + 2?", "It is 4."), GOOD[2])),
    "a record cut in its middle": (
        "x.jsonl", jsonl(GOOD[0], line(GOOD[1])[:40] + "\n", GOOD[2]), [("json", 2)], jsonl(GOOD[0], GOOD[2])),
    "NaN": (
        "x.jsonl", jsonl(GOOD[0], line({**GOOD[1], "score": 1}).replace("1}\n", "NaN}\n"), GOOD[2]), [("json", 2)],
        jsonl(GOOD[0], {**GOOD[1], "score": None}, GOOD[2])),
    "broken items of an array": (
        "x.json", "[\n" + ",\n".join([*(line(row).strip() for row in GOOD), '{"messages": [{"role" "user"}]}', str(chat("Why?", "So.")), line(chat("How?", "Thus.")).strip()]) + "\n]\n",
        [("json", 5), ("json", 6)], [*GOOD, chat("Why?", "So."), chat("How?", "Thus.")]),
    "commas of an array": (
        "x.json", "[\n" + line(GOOD[0]).strip() + "\n" + line(GOOD[1]).strip() + ",\n" + line(GOOD[2]).strip() + ",\n]\n",
        [("json", 3), ("json", 5)], GOOD),
    "entities": (
        "x.jsonl", jsonl(GOOD[0], chat("Who are Tom &amp;amp; Jerry?", "&quot;They&quot;&nbsp;fight."), chat("How does one write & in HTML?", "Write &amp; for it.")),
        [("entity", 2), ("entity", 2)], jsonl(GOOD[0], chat("Who are Tom & Jerry?", '"They" fight.'), chat("How does one write & in HTML?", "Write &amp; for it."))),
    "an answer that cannot be seen": (
        "x.jsonl", jsonl(GOOD[0], chat("Why?", "\u200b\u3000"), GOOD[2]), [("control", 2), ("empty", 2)], jsonl(GOOD[0], GOOD[2])),
    "ids that come again": (
        "x.jsonl", jsonl(*({"id": name, **chat(f"{name} {k}?", f"{name}.")} for k, name in enumerate("abcbxyz"))), [("id", 4)], None),
    "short lines of GBK": (
        "x.csv", ("text,label\n" + "".join(f"{text},{label}\n" for text, label in (("a film to see", "正面"), ("这部电影的故事很好看，我们都喜欢", "正面"), ("not worth it", "负面")))).encode("gbk"),
        [("encoding", k) for k in (2, 3, 4)], "text,label\na film to see,正面\n这部电影的故事很好看，我们都喜欢,正面\nnot worth it,负面\n"),
    "UTF-16 without a mark": (
        "x.csv", "question,answer\n红楼梦的作者是谁,曹雪芹\nWhat is it?,A book.\n".encode("utf-16-le"), [("encoding", 1)],
        "question,answer\n红楼梦的作者是谁,曹雪芹\nWhat is it?,A book.\n"),
    "Chinese personal data": (
        "x.jsonl", jsonl(GOOD[0], chat("服务器IP是47.93.12.5，座机(0755)86013388或0571-8517-1234？", "是。"), chat("见第13.8.1.2节，版本3.11.0.1，值为13812345678.25", "git@github.com:a/b.git")),
        [("personal", 2)] * 3, jsonl(GOOD[0], chat("服务器IP是<ip>，座机<phone>或<phone>？", "是。"), chat("见第13.8.1.2节，版本3.11.0.1，值为13812345678.25", "git@github.com:a/b.git"))),
    "roles that are misspelled": (
        "x.jsonl", jsonl(GOOD[0], line(GOOD[1]).replace('"assistant"', '"asistant"'), line(GOOD[2]).replace('"user"', '"usr"'), chat(turn("用户", "Why?"), turn("ai", "So.")), chat(turn("wizard", "How?"), turn("ai", "Thus."))),
        [("role", 2), ("role", 3), ("misfit", 5)], jsonl(*GOOD, chat(turn("用户", "Why?"), turn("ai", "So.")))),
    "a call without a name": (
        "x.jsonl", jsonl(*GOOD, chat("w?", turn("assistant", "", tool_calls=[{"type": "function", "function": {"name": "", "arguments": "{}"}}]))),
        [("misfit", 4)], jsonl(*GOOD)),
    "records of another shape": (
        "x.jsonl", jsonl(GOOD[0], {"text": "plain"}, *GOOD[1:]), [("misfit", 2)], jsonl(*GOOD)),
    "what programs write for nothing": (
        "x.jsonl", jsonl(*ALPACA, {"instruction": "Why?", "input": "", "output": "NaN"}, {"instruction": "How?", "input": "", "output": None}), [("placeholder", 4), ("empty", 5)],
        jsonl(*ALPACA, {"instruction": "Why?", "input": "", "output": "NaN"})),
    "a line for spreadsheets": (
        "x.csv", "sep=;\nquestion;answer\nWhy is it so?;Because.\nHow is it?;\nWhere is it?;Here.\n", [("empty", 4)],
        "sep=;\nquestion;answer\nWhy is it so?;Because.\nWhere is it?;Here.\n"),
    "a key that stands twice": (
        "x.jsonl", jsonl(ALPACA[0], '{"instruction": "Why?", "input": "", "output": "Thus.", "output": "So."}\n', ALPACA[2]), [("json", 2)],
        jsonl(ALPACA[0], {"instruction": "Why?", "input": "", "output": "So."}, ALPACA[2])),
    "a key that stands twice in an array": (
        "x.json", "[\n" + ",\n".join([line(GOOD[0]).strip(), line(GOOD[1]).strip().replace('"role": "user"', '"role": "assistant", "role": "user"'), line(GOOD[2]).strip()]) + "\n]\n",
        [("json", 3)], GOOD),
}  # fmt: skip
