"""Made SentencePiece models against the peers: sentencepiece on the model, tokenizers on the tokenizer.json."""

from __future__ import annotations

import io
import json
import operator
import os
import random
import string
import subprocess
import sys
from functools import cache

import sentencepiece
import tokenizers

from blobstore.gemma.tokenizer import check_pieces, pieces_of
from blobstore.tokenizer.added import added_in_json
from blobstore.tokenizer.fitting import MadeTokenizer, Tokenizer
from blobstore.tokenizer.from_json import parse_tokenizer
from blobstore.tokenizer.proto import dump_model, parse_model
from tests.conftest import ROOT
from tests.tokenizer_files import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, USER_DEFINED, added_token, document_of, dumped

# Scripts of ten languages: English, French, Greek, Russian, Hebrew, Arabic, Hindi, Thai, Japanese and Chinese, Korean;
# and emoji, some of them of several characters.
SCRIPTS = (
    "the and of to in that tokenizer model weights",
    "été garçon où naïve œuvre château déjà",
    "και το να είναι για ένα λόγος",
    "привет мир это не что как слово",
    "שלום עולם זה לא מה מילה",
    "مرحبا بالعالم هذا ليس كلمة",
    "नमस्ते दुनिया यह नहीं शब्द",
    "สวัสดี โลก นี่ ไม่ใช่ คำ",
    "こんにちは 世界 これは ない 言葉 你好 这是 不是 词语",
    "안녕하세요 세계 이것은 아니다 단어",
    "😀 👍🏽 👩‍👩‍👧 🇫🇷 ❤️ 🤽",
)
# Not that of this project: texts would be others after each change of it.
CODE = """
from __future__ import annotations
import numpy as np
class Reader(Protocol[T]):
def __init__(self, path: str | os.PathLike[str], *, mode: int = 0o644) -> None:
self._offsets: dict[bytes, tuple[int, int]] = {}
for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }
if (!ptr || *ptr == '\\0') return NULL;
return {key: value for key, value in sorted(found.items()) if not key.startswith("_")}
assert x.shape == (3, 224, 224), f"{x.shape!r} isn't {EXPECTED}"
raise ValueError(f"row {row:>5}: expected {want}, got {got!r}") from None
while low <= high and (middle := (low + high) // 2) >= 0:
with open(os.path.join(folder, "weights.bin"), "rb") as file, closing(file):
@functools.lru_cache(maxsize=1 << 10)
MASK = 0xFFFF_FFFF ^ (1 << 31)  # all bits but the sign
SELECT name, COUNT(*) AS total FROM users WHERE id <> 7 GROUP BY name;
fn main() -> Result<(), Box<dyn Error>> { println!("{:?}", args); Ok(()) }
<a href="https://example.org/?q=1&amp;page=2#top" class='link'>more</a>
const add = (a, b) => a + b; // 1e-5, 3.14, .5, 10_000
pattern = re.compile(r"^(?P<name>[a-z_]+)\\s*=\\s*(.*?);?$")
print("%-20s|%5.1f%%" % (name, 100 * part / whole), file=sys.stderr)
{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}}, "version": null}
$ make -j4 test && echo 'done: $?' | tee -a log.txt 2>&1
"""
LONGEST = 31  # run of spaces that is one piece, as in Gemma's. Longer ones aren't split alike: spec/gemma.md, Tokenizer
USER = ["[multimodal]", "<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "\n\n\n", "\t", "<b>"]
USER += [SPACE * count for count in range(2, LONGEST + 1)]


def decoded(text: str) -> str:
    """What its tokens decode to: a space is stored as SPACE, so that a SPACE of the text can't be told from it."""
    return text.replace(SPACE, " ")


def lines(count: int, seed: int) -> list[str]:
    """Words of all scripts, code, and what no training text has."""
    rng = random.Random(seed)
    code = CODE.strip().splitlines()
    made: list[str] = []
    for _ in range(count // 4):
        words = rng.choice(code).split(" ")
        start = rng.randrange(len(words))
        name = "".join(rng.choices(string.ascii_lowercase + "_", k=rng.randint(1, 9)))
        made.append("    " * rng.randrange(7) + " ".join([*words[start : rng.randint(start + 1, len(words))], name]))
    for _ in range(count - len(made)):
        words = rng.choice(SCRIPTS).split()
        text = rng.choice((" ", " ", "  ", "\n", "\t", "", "\n\n\n\n")).join(rng.choices(words, k=rng.randint(1, 12)))
        made.append(
            text + rng.choice(("", "", " ", "<start_of_turn>user\n", "<b>", chr(rng.randint(0xA1, 0xD7FF)), "12.5%"))
        )
    return made


@cache
def trained() -> bytes:
    """A small model like Gemma's, trained on the spot."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines(3000, 1)),
        model_writer=model,
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        character_coverage=0.99,
        user_defined_symbols=USER,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


@cache
def exported() -> bytes:
    """The same as a tokenizer.json."""
    return dumped(document_of([(text.decode(), kind) for text, kind in pieces_of(trained())]))


def facts(raw: bytes) -> list[tuple[str, float, int]]:
    """Each piece, its score, its type, as sentencepiece says."""
    model = sentencepiece.SentencePieceProcessor(model_proto=raw)
    kinds = {"IsUnknown": UNKNOWN, "IsControl": CONTROL, "IsByte": BYTE}
    user = {text for text, kind in pieces_of(raw) if kind == USER_DEFINED}
    found = []
    for number in range(model.get_piece_size()):
        text = model.id_to_piece(number)
        kind = next((kind for name, kind in kinds.items() if getattr(model, name)(number)), NORMAL)
        found.append((text, model.get_score(number), USER_DEFINED if text.encode() in user else kind))
    return found


def test_a_model_comes_out_as_it_was_trained() -> None:
    made = MadeTokenizer(parse_tokenizer(exported()), "tokenizer.json")
    raw = made.fitted(900).raw
    assert made.rows == 900
    assert made.json.inexact == 0
    assert facts(raw) == facts(trained())
    model = sentencepiece.SentencePieceProcessor(model_proto=raw)
    assert (model.pad_id(), model.eos_id(), model.bos_id(), model.unk_id()) == (0, 1, 2, 3)


def test_ten_thousand_lines_have_the_same_tokens_in_both_libraries() -> None:
    model = sentencepiece.SentencePieceProcessor(
        model_proto=MadeTokenizer(parse_tokenizer(exported()), "tokenizer.json").fitted(900).raw
    )
    peer = tokenizers.Tokenizer.from_str(exported().decode())
    texts = lines(10_000, 2)
    expected = [found.ids for found in peer.encode_batch(texts, add_special_tokens=False)]
    assert all(map(operator.eq, model.encode(texts), expected))
    assert len({token for ids in expected for token in ids}) > 500
    assert [model.decode(ids) for ids in expected[:500]] == [decoded(text) for text in texts[:500]]


def test_added_and_renamed_tokens_have_the_same_numbers_in_both_libraries() -> None:
    document = json.loads(exported())
    extra = [added_token(900, "<tool call>"), added_token(902, "<|x|>", special=True), added_token(4, "[tool]")]
    document["added_tokens"] = [one for one in document["added_tokens"] if one["id"] != 4] + extra
    vocabulary = document["model"]["vocab"]
    document["model"]["vocab"] = {("[tool]" if number == 4 else text): number for text, number in vocabulary.items()}
    document["model"]["vocab"] |= {"<tool call>": 900, "gap": 901, "<|x|>": 902}
    raw = dumped(document)
    fitted = Tokenizer(trained(), added_in_json(raw, lambda: raw), "tokenizer.json").fitted(912)
    assert check_pieces(fitted.raw).count == 912
    assert not check_pieces(fitted.raw).faults
    model = sentencepiece.SentencePieceProcessor(model_proto=fitted.raw)
    peer = tokenizers.Tokenizer.from_str(raw.decode())
    for text in ("a <tool call> b", "<|x|>the<|x|>", "x[tool] [multimodal]", " [tool]"):
        assert model.encode(text) == peer.encode(text, add_special_tokens=False).ids, text
    assert fitted.notes == (
        "tokenizer: 2 pieces added from tokenizer.json: 900 '<tool\u2581call>', 902 '<|x|>'",
        "tokenizer: 1 piece renamed as in tokenizer.json: 4 '[multimodal]' → '[tool]'",
        "tokenizer: 10 rows without a token get pieces of the type UNUSED: 901 to 911",
    )


def test_another_protobuf_makes_the_same_bytes() -> None:
    """verify makes the model again, perhaps elsewhere: protobuf's own two implementations agree."""
    code = (
        "import sys; from blobstore.tokenizer.from_json import parse_tokenizer;"
        "from blobstore.tokenizer.fitting import MadeTokenizer;"
        "from google.protobuf.internal import api_implementation as a; assert a.Type() == 'python', a.Type();"
        "raw = sys.stdin.buffer.read();"
        "sys.stdout.buffer.write(MadeTokenizer(parse_tokenizer(raw), 'tokenizer.json').fitted(900).raw)"
    )
    environment = os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    made = subprocess.run(
        [sys.executable, "-c", code], input=exported(), capture_output=True, env=environment, check=True, cwd=ROOT
    )
    assert made.stdout == MadeTokenizer(parse_tokenizer(exported()), "tokenizer.json").fitted(900).raw


def test_the_schema_agrees_with_sentencepiece_s_own() -> None:
    """A trained model has most fields of its specs: what is read and written again is the same bytes."""
    assert dump_model(parse_model(trained(), "")) == trained()
