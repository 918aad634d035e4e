"""The class: vectors of sentence-transformers, its rules, its errors."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import TINY, recorded

from datafusion_embed import SentenceTransformer


@pytest.mark.parametrize("name", ["plain", "query", "document"])
def test_vectors_are_those_of_sentence_transformers(model: SentenceTransformer, texts: list[str], name: str) -> None:
    encode = {"plain": model.encode, "query": model.encode_query, "document": model.encode_document}[name]
    assert np.abs(encode(texts) - recorded(f"tiny-bert.{name}")).max() < 1e-5


def test_the_model_without_a_name_is_in_the_package() -> None:
    model = SentenceTransformer(local_files_only=True)
    near, far = model.similarity(model.encode("a bike"), model.encode(["a bicycle", "a tax form"]))[0]
    assert model.get_embedding_dimension() == 384 and model.max_seq_length == 256
    assert float(near) > 0.7 > float(far)


def test_shapes(model: SentenceTransformer) -> None:
    assert model.encode("one").shape == (32,) and model.encode("one").dtype == np.float32
    assert model.encode(["one"]).shape == (1, 32)
    assert model.encode(np.array(["one", "two"])).shape == (2, 32)
    assert model.encode([]).shape == (0,)
    pandas = pytest.importorskip("pandas")
    assert model.encode(pandas.Series(["one", "two", "one"], index=[5, 6, 7])).shape == (3, 32)


def test_an_order_of_texts_and_a_batch_change_no_bit(model: SentenceTransformer, texts: list[str]) -> None:
    whole = model.encode(texts)
    assert all((model.encode(text) == row).all() for text, row in zip(texts, whole, strict=True))
    assert (model.encode(texts[::-1], batch_size=1)[::-1] == whole).all()


def test_prompts(model: SentenceTransformer, caplog: pytest.LogCaptureFixture) -> None:
    query = model.prompts["query"]
    assert query and (model.encode_query("x") == model.encode("x", prompt_name="query")).all()
    assert (model.encode("x", prompt=query) == model.encode_query("x")).all()
    with caplog.at_level(logging.WARNING):
        assert (model.encode("x", prompt=query, prompt_name="document") == model.encode_query("x")).all()
    assert "both given" in caplog.text
    with pytest.raises(ValueError, match="'nosuch': the model has .*'query'"):
        model.encode("x", prompt_name="nosuch")
    own = SentenceTransformer(TINY, prompts={"passage": "p: ", "query": ""}, default_prompt_name="passage")
    assert (own.encode("x") == own.encode("p: x", prompt="")).all()
    with pytest.raises(ValueError, match="'nosuch'"):
        SentenceTransformer(TINY, default_prompt_name="nosuch")


def test_fewer_values_are_cut_off_before_vectors_are_normalised(model: SentenceTransformer) -> None:
    whole = model.encode(["a", "b"])
    cut = model.encode(["a", "b"], truncate_dim=8, normalize_embeddings=True)
    assert np.allclose(cut, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-6)
    with model.truncate_embeddings(4):
        assert model.encode("a").shape == (4,) and model.get_embedding_dimension() == 4
    assert model.encode("a").shape == (32,)
    assert SentenceTransformer(TINY, truncate_dim=16).encode(["a"]).shape == (1, 16)


@pytest.mark.filterwarnings("ignore")
def test_precisions(model: SentenceTransformer, texts: list[str]) -> None:
    vectors = model.encode(texts)
    least, most = vectors.min(axis=0), vectors.max(axis=0)
    steps = np.floor((vectors - least) / ((most - least) / 255))
    assert (model.encode(texts, precision="uint8") == steps.astype(np.uint8)).all()
    assert (model.encode(texts, precision="int8") == (steps - 128).astype(np.int8)).all()
    bits = np.packbits(vectors > 0, axis=1)
    assert (model.encode(texts, precision="ubinary") == bits).all()
    binary = model.encode(texts, precision="binary")
    assert binary.dtype == np.int8 and (binary.astype(np.int16) + 128 == bits).all()
    assert model.encode("a", precision="ubinary").shape == (4,)
    with pytest.raises(ValueError, match="at least two texts"):
        model.encode("a", precision="int8")


def test_what_is_wrong_is_said(model: SentenceTransformer) -> None:
    for wrong, what in [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"precision": "float16"}, "'float16'"),
        ({"nosuch": 1}, "'nosuch'"),
        ({"truncate_dim": 0}, "truncate_dim is 0"),
    ]:
        with pytest.raises(ValueError, match=what):
            model.encode("x", **wrong)
    with pytest.raises(TypeError, match=r"inputs\[1\] is of type int"):
        model.encode(["x", 1])
    with pytest.raises(NotImplementedError, match="token_embeddings"):
        model.encode("x", output_value="token_embeddings")
    with pytest.raises(NotImplementedError, match="never run"):
        SentenceTransformer(TINY, trust_remote_code=True)
    with pytest.raises(OSError, match="nosuch"):
        SentenceTransformer("/nosuch/model")
    with pytest.raises(ValueError, match="arithmetic|precision|f64"):
        SentenceTransformer(TINY, arithmetic="f64")


def test_similarities(model: SentenceTransformer) -> None:
    a, b = model.encode(["a", "b"]), model.encode(["c", "d", "e"])
    assert np.asarray(model.similarity(a, b)).shape == (2, 3)
    assert np.allclose(np.asarray(model.similarity_pairwise(a, a)), 1.0, atol=1e-6)
    for name, expected in [
        ("dot", a @ b.T),
        ("euclidean", -np.linalg.norm(a[:, None] - b[None], axis=2)),
        ("manhattan", -np.abs(a[:, None] - b[None]).sum(axis=2)),
    ]:
        model.similarity_fn_name = name
        assert np.allclose(np.asarray(model.similarity(a, b)), expected, atol=1e-4), name
    model.similarity_fn_name = "cosine"
    with pytest.raises(ValueError, match="'nosuch'"):
        model.similarity_fn_name = "nosuch"


def test_max_seq_length(texts: list[str]) -> None:
    model = SentenceTransformer(TINY)
    text = " ".join(["garden"] * 50)
    whole = model.encode(text)
    model.max_seq_length = 8
    assert model.get_max_seq_length() == 8
    assert (model.encode(text) != whole).any() and (model.encode(text) == model.encode(text + " garden")).all()


def test_more_tokens_than_the_model_has(model: SentenceTransformer) -> None:
    copy = SentenceTransformer(TINY)
    with pytest.raises(ValueError, match="100 .* 64 positions"):
        copy.max_seq_length = 100
    assert copy.max_seq_length == model.max_seq_length
    assert copy.count_tokens(["a bicycle", ""])[1] == 2


def test_names_of_older_versions(model: SentenceTransformer, caplog: pytest.LogCaptureFixture) -> None:
    assert (model.encode(sentences=["a"]) == model.encode(["a"])).all()
    assert "inputs" in caplog.text
    assert (model.encode_query(sentences=["a"]) == model.encode_query(["a"])).all()
    with model.truncate_sentence_embeddings(8):
        assert model.get_sentence_embedding_dimension() == 8
    assert (model.encode(["a"], precision=None) == model.encode(["a"])).all()


def test_what_is_not_here_says_so(model: SentenceTransformer) -> None:
    for name in ("fit", "save", "tokenizer"):
        assert not hasattr(model, name)
        with pytest.raises(NotImplementedError, match="not here"):
            getattr(model, name)
    with pytest.raises(AttributeError, match="nosuch"):
        model.nosuch  # noqa: B018


def test_device(model: SentenceTransformer) -> None:
    assert model.device == "cpu" and model.device.type == "cpu" and model.to("cpu") is model
    assert (model.encode("a", device=["cpu", "cpu"]) == model.encode("a")).all()
    with pytest.raises(NotImplementedError, match="cuda.*cpu"):
        model.encode("a", device="cuda")
    torch = pytest.importorskip("torch")
    assert model.device == torch.device("cpu") == model.device and torch.zeros(1, device=model.device).device == model.device


def test_another_process_reads_the_model_again(model: SentenceTransformer, texts: list[str]) -> None:
    copy = pickle.loads(pickle.dumps(model))
    assert (copy.encode_query(texts) == model.encode_query(texts)).all()


def test_arithmetics_agree(model: SentenceTransformer, texts: list[str]) -> None:
    exact = model.encode(texts, normalize_embeddings=True)
    for arithmetic, least in [("bf16", 0.999), ("int8", 0.98)]:
        other = SentenceTransformer(TINY, arithmetic=arithmetic).encode(texts, normalize_embeddings=True)
        assert (exact * other).sum(axis=1).mean() > least, arithmetic


def test_threads_share_a_model(model: SentenceTransformer, texts: list[str]) -> None:
    expected = model.encode(texts)
    with ThreadPoolExecutor(8) as pool:
        assert all((vectors == expected).all() for vectors in pool.map(lambda _: model.encode(texts), range(32)))


def test_the_gil_is_free_while_a_model_works(model: SentenceTransformer) -> None:
    many, done, ticks = [f"text {i} " * 40 for i in range(4000)], threading.Event(), 0
    worker = threading.Thread(target=lambda: (model.encode(many), done.set()))
    worker.start()
    while not done.wait(0.005):
        ticks += 1
    worker.join()
    assert ticks > 3


def test_a_progress_bar_ends_where_it_should(model: SentenceTransformer, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    model.encode(["a", "b", "a"], show_progress_bar=True)
    assert "3/3" in capfd.readouterr().err
    model.encode(["a", "b"])
    assert capfd.readouterr() == ("", "")


CODE = """
import os, sys
from datafusion_embed import SentenceTransformer
model = SentenceTransformer(sys.argv[1])
"""


def python(code: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", CODE + code, TINY]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_is_a_keyboard_interrupt() -> None:
    child = python(
        "print('ready', flush=True)\n"
        "try:\n    model.encode([f'text {i} ' * 100 for i in range(200_000)])\n"
        "except KeyboardInterrupt:\n    print(model.encode('still there').shape)\n"
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    threading.Event().wait(2.5)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert (out, err) == ("(32,)\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_process_is_told_not_to_wait_for_ever() -> None:
    child = python(
        "model.encode('x')\n"
        "if os.fork() == 0:\n"
        "    try:\n        model.encode('x')\n"
        "    except RuntimeError as error:\n        print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    out, _ = child.communicate(timeout=30)
    assert "was forked" in out and "spawn" in out
