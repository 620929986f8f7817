"""Protects SentencePiece tokenizers: token for token the same ids as Google's `sentencepiece`, and the text back from them.

Small models are trained here on the corpus of test_tokenizer.py; FORESAY_GEMMA names the Gemma 3 270M file (make model-gemma),
without it those tests are skipped. The reference is made from the vocabulary in the GGUF file itself. (transformers, reading the
same file, takes runs of more than 31 spaces apart differently than Gemma's own tokenizer.)
"""

import io
import os
import random

import pytest

gguf = pytest.importorskip("gguf")
sentencepiece = pytest.importorskip("sentencepiece")
pytest.importorskip("google.protobuf")
from sentencepiece import sentencepiece_model_pb2 as model_pb2  # noqa: E402

from test_tokenizer import TEXTS, encode_all, run  # noqa: E402

GEMMA = os.environ.get("FORESAY_GEMMA", "")
NORMAL, UNKNOWN, USER_DEFINED, BYTE = 1, 2, 4, 6


def reference(path):
    """The tokenizer that the file describes, as a model of the library."""
    fields = gguf.GGUFReader(path).fields

    def get(key):
        return fields["tokenizer.ggml." + key].contents() if "tokenizer.ggml." + key in fields else None

    model = model_pb2.ModelProto()
    names, kinds = get("tokens"), get("token_type")
    for name, score, kind in zip(names, get("scores"), kinds):
        piece = model.pieces.add()
        piece.piece = name.replace(" ", "\u2581") if kind == USER_DEFINED else name
        piece.score, piece.type = score, kind
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.vocab_size, trainer.byte_fallback = 2, len(names), BYTE in kinds
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = get("unknown_token_id"), get("bos_token_id"), get("eos_token_id"), -1
    trainer.unk_piece, trainer.bos_piece, trainer.eos_piece = names[trainer.unk_id], names[trainer.bos_id], names[trainer.eos_id]
    model.pieces[trainer.unk_id].type = UNKNOWN
    normalizer.name, normalizer.remove_extra_whitespaces, normalizer.escape_whitespaces = "identity", False, True
    normalizer.add_dummy_prefix = get("add_space_prefix") is not False
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def train(path, n, prefix, byte_fallback, added, control=(), template=None, lines=None):
    """A BPE vocabulary of n tokens over the corpus, as a GGUF file without weights."""
    out = io.BytesIO()
    lines = lines or [line for text in TEXTS[:30] for line in text.split("\n") if 0 < len(line) < 4000]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, vocab_size=n, model_type="bpe", byte_fallback=byte_fallback,
        character_coverage=0.99, add_dummy_prefix=prefix, normalization_rule_name="identity", remove_extra_whitespaces=False,
        user_defined_symbols=added, control_symbols=list(control), split_digits=True, allow_whitespace_only_pieces=True, hard_vocab_limit=False,
        minloglevel=2)
    model = model_pb2.ModelProto()
    model.ParseFromString(out.getvalue())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.piece for piece in model.pieces])
    writer.add_token_scores([piece.score for piece in model.pieces])
    writer.add_token_types([piece.type for piece in model.pieces])
    writer.add_bos_token_id(model.trainer_spec.bos_id)
    writer.add_eos_token_id(model.trainer_spec.eos_id)
    writer.add_unk_token_id(model.trainer_spec.unk_id)
    writer.add_add_space_prefix(prefix)
    if template:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def compare(path, processor, texts):
    """Returns the size of the texts in bytes."""
    problems, n_bytes = [], 0
    for text, ours in zip(texts, encode_all(path, texts)):
        data = text if isinstance(text, bytes) else text.encode("utf-8")
        theirs = processor.encode(data)
        n_bytes += len(data)
        if theirs != ours:
            at = next((i for i, (a, b) in enumerate(zip(theirs, ours)) if a != b), min(len(ours), len(theirs)))
            problems.append(f"{data[:30]!r}: token {at}: {theirs[at:at + 6]} expected, {ours[at:at + 6]} got")
    assert not problems, "\n".join(problems[:20])
    return n_bytes


@pytest.mark.parametrize("n,prefix,byte_fallback,added", [
    (3000, True, True, []),
    (2500, True, False, []),
    (3000, False, True, ["<tool>", "\u2581\u2581\u2581", "\n\n"]),
])
def test_trained(tmp_path, n, prefix, byte_fallback, added):
    """Like Llama 2, like one without byte tokens, and like Gemma: the whole corpus, at least a megabyte."""
    path = str(tmp_path / "vocabulary.gguf")
    train(path, n, prefix, byte_fallback, added)
    assert compare(path, reference(path), TEXTS) > 1_000_000
    if byte_fallback:
        for text in TEXTS[:60]:
            assert run(path, run(path, text), "--decode") == text.replace("\u2581", " ").encode("utf-8")


@pytest.mark.skipif(not os.path.exists(GEMMA), reason="FORESAY_GEMMA names no file")
def test_gemma():
    """The whole corpus in a real vocabulary of 262,144 tokens, and back."""
    assert compare(GEMMA, reference(GEMMA), TEXTS) > 1_000_000
    text = "".join(TEXTS[:60])
    assert run(GEMMA, run(GEMMA, text), "--decode") == text.replace("\u2581", " ").encode("utf-8")
    odd = b"caf\xe9 \xe2\x82 \xed\xa0\x80 \x80\x80 end\xf0\x9f\x98"
    assert run(GEMMA, run(GEMMA, odd), "--decode") == odd


# --- unigram ---

def train_unigram(path, n, rule, prefix, merges, byte_fallback, added, by_space=True, lines=None):
    """A unigram vocabulary over the corpus as a GGUF file in llama.cpp's form, and the library's own processor for it."""
    out = io.BytesIO()
    lines = lines or [line for text in TEXTS[:30] for line in text.split("\n") if 0 < len(line) < 4000]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, vocab_size=n, model_type="unigram", byte_fallback=byte_fallback,
        character_coverage=0.99, add_dummy_prefix=prefix, normalization_rule_name=rule, remove_extra_whitespaces=merges,
        user_defined_symbols=added, split_by_whitespace=by_space, hard_vocab_limit=False, minloglevel=2)
    model = model_pb2.ModelProto()
    model.ParseFromString(out.getvalue())
    writer = gguf.GGUFWriter(path, "t5")
    writer.add_tokenizer_model("t5")
    writer.add_token_list([piece.piece for piece in model.pieces])
    writer.add_token_scores([piece.score for piece in model.pieces])
    writer.add_token_types([piece.type for piece in model.pieces])
    writer.add_eos_token_id(model.trainer_spec.eos_id)
    writer.add_unk_token_id(model.trainer_spec.unk_id)
    writer.add_add_space_prefix(prefix)
    writer.add_remove_extra_whitespaces(merges)
    if model.normalizer_spec.precompiled_charsmap:
        writer.add_precompiled_charsmap(model.normalizer_spec.precompiled_charsmap)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def odd_bytes(seed, n):
    """Texts that are not UTF-8: characters cut short, bytes put in, bytes of any value."""
    rng = random.Random(seed)
    texts = [bytes(rng.randrange(256) for _ in range(300)) for _ in range(n)]
    for _ in range(n):
        text = bytearray("Größe 智能 का 👩\u200d👧  e\u0301 ﬁ ".encode("utf-8") * 4)
        for _ in range(12):
            text[rng.randrange(len(text))] = rng.randrange(256)
        texts.append(bytes(text))
    return texts


@pytest.mark.parametrize("n,rule,prefix,merges,byte_fallback,added,by_space", [
    (3000, "nmt_nfkc", True, True, False, [], True),
    (2500, "nmt_nfkc_cf", True, True, True, ["<extra>", "ﬁ", "</s2>"], True),
    (3000, "identity", True, False, True, [], True),
    (3000, "nfkc", False, False, False, ["<tool>", "\u2581\u2581", "中"], False),
])
def test_unigram(tmp_path, n, rule, prefix, merges, byte_fallback, added, by_space):
    """Like T5 and XLM-R, folding case, leaving text alone, and with tokens across spaces: the whole corpus and bytes that are no text."""
    path = str(tmp_path / "vocabulary.gguf")
    processor = train_unigram(path, n, rule, prefix, merges, byte_fallback, added, by_space)
    spelled = ["".join(added) * 3, " ".join(added) + "  x\u2581\u2581\u2581y  ", "\u2581", " \u2581 \u3000 \u00a0", "   ", "a" * 3000, "ab " * 900]
    assert compare(path, processor, TEXTS + odd_bytes(7, 60) + spelled) > 1_000_000
