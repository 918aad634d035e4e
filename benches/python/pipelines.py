"""Python's ways to embed a column of texts, side by side on the same rows.

    python benches/python/pipelines.py --file FILE.parquet [--rows 2000] [--threads 2] [--repeat 3] [--only NAME,NAME]

Each way is a process of its own, in turns, and the median counts: seconds of the whole process, rows/s of the embedding alone, the most
memory that the process and its children have together, seconds from the start to the first vector. That the work is equal is shown by
the least and the mean cosine to the vectors of sentence-transformers, for static models to those of model2vec. The package of this
repository, sentence-transformers and pyarrow have to be installed, and for its ways each of ray, onnx with onnxruntime, fastembed and
model2vec. The model is that of models/all-MiniLM-L6-v2, made into ONNX as benches/rivals does; the static one has its vocabulary and random
vectors of 256 values, which cost what trained ones do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

START = time.perf_counter()
ROOT = Path(__file__).resolve().parents[2]
MODEL = str(ROOT / "models" / "all-MiniLM-L6-v2")
#: In the folder of a run: what is made of the model before it.
ONNX, STATIC = "onnxruntime", "static"
#: Rows of a batch for those that want to be told.
BATCH = 32


def texts(options):
    import pyarrow.parquet as pq

    return pq.read_table(options.file, columns=["body"])["body"].drop_null().slice(0, options.rows).to_pylist()


def by_class(make):
    def run(options):
        model = make(options)
        model.encode("one")
        first = time.perf_counter() - START
        rows = texts(options)
        begin = time.perf_counter()
        vectors = model.encode(rows, normalize_embeddings=True)
        return first, time.perf_counter() - begin, vectors

    return run


def torch_class(options):
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(options.threads)
    return SentenceTransformer(MODEL, device="cpu", model_kwargs={"dtype": torch.float32})


def own_class(arithmetic):
    def make(options):
        from datafusion_embed import SentenceTransformer

        return SentenceTransformer(MODEL, arithmetic=arithmetic, threads=options.threads)

    return make


class Theirs:
    """What people write for Ray Data."""

    def __init__(self, model, threads):
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        self.model = SentenceTransformer(model, device="cpu", model_kwargs={"dtype": torch.float32})

    def __call__(self, batch):
        return {**batch, "embedding": self.model.encode(list(batch["body"]), normalize_embeddings=True)}


def by_ray(ours):
    def run(options):
        import numpy as np
        import ray

        ray.init(num_cpus=options.threads, include_dashboard=False, log_to_driver=False, logging_level="error")
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = [{"id": i, "body": text} for i, text in enumerate(texts(options))]
        # A batch in each of a few, as the documentation advises; one actor has all threads.
        if ours:
            from datafusion_embed.ray import TextEmbedder as worker

            arguments = {"model": MODEL, "column": "body", "arithmetic": ours, "threads": options.threads}
        else:
            worker, arguments = Theirs, {"model": MODEL, "threads": options.threads}
        begin = time.perf_counter()
        rows = ray.data.from_items(items).map_batches(
            worker, fn_constructor_kwargs=arguments, batch_size=512, concurrency=1, num_cpus=options.threads
        )
        found = sorted(rows.take_all(), key=lambda row: row["id"])
        took = time.perf_counter() - begin
        return None, took, np.stack([row["embedding"] for row in found])

    return run


class Encoder:
    """Another library's model with the one method that is used of the class."""

    def __init__(self, encode):
        self.encode_all = encode

    def encode(self, texts, **_):
        return self.encode_all([texts] if isinstance(texts, str) else texts)


def rivals():
    """How benches/rivals makes ONNX of the model, and runs it."""
    sys.path.append(str(ROOT / "benches" / "rivals"))
    import rivals

    return rivals


def onnxruntime(precision):
    def make(options):
        options.cache, options.batch = Path(options.made), BATCH
        return Encoder(rivals().OnnxRuntime(precision, options).encode)

    return make


def fastembed(options):
    import numpy as np
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        "own", PoolingType.MEAN, normalization=True, sources=ModelSource(hf="own/own"), dim=384, model_file="f32.onnx"
    )
    model = TextEmbedding("own", specific_model_path=f"{options.made}/{ONNX}", threads=options.threads)
    return Encoder(lambda texts: np.stack(list(model.embed(texts, batch_size=BATCH))))


def model2vec(options):
    from model2vec import StaticModel

    return Encoder(StaticModel.from_pretrained(f"{options.made}/{STATIC}").encode)


def own_static(options):
    from datafusion_embed import SentenceTransformer

    return SentenceTransformer(f"{options.made}/{STATIC}", threads=options.threads)


def make_onnx(folder):
    """The model as ONNX, with the files beside it that fastembed reads."""
    folder.mkdir()
    rivals().OnnxRuntime.convert(folder)
    for file in Path(MODEL).glob("*.json"):
        shutil.copy(file, folder)


def make_static(folder):
    import numpy as np
    from model2vec import StaticModel
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{MODEL}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    vectors = np.random.default_rng(1).standard_normal((tokenizer.get_vocab_size(), 256)).astype(np.float32)
    StaticModel(vectors, tokenizer, normalize=True).save_pretrained(str(folder))


def by_sql(arithmetic):
    def run(options):
        import numpy as np
        import pyarrow as pa

        import datafusion_embed

        con = datafusion_embed.connect(model=MODEL, arithmetic=arithmetic, threads=options.threads)
        con.sql("SELECT embed('one')").fetchall()
        first = time.perf_counter() - START
        rows = pa.table({"body": texts(options)})
        begin = time.perf_counter()
        vectors = con.sql("SELECT embed(body) AS v FROM rows", rows=rows).to_arrow()["v"].combine_chunks()
        took = time.perf_counter() - begin
        return first, took, np.asarray(vectors.flatten()).reshape(len(vectors), -1)

    return run


WAYS = {
    "sentence-transformers": by_class(torch_class),
    **{f"SentenceTransformer here, {arithmetic}": by_class(own_class(arithmetic)) for arithmetic in ("f32", "bf16", "int8")},
    **{f"connect().sql, {arithmetic}": by_sql(arithmetic) for arithmetic in ("f32", "int8")},
    "Ray Data, sentence-transformers": by_ray(None),
    "Ray Data, TextEmbedder here, f32": by_ray("f32"),
    "Ray Data, TextEmbedder here, int8": by_ray("int8"),
    "onnxruntime, f32, fused": by_class(onnxruntime("f32")),
    "onnxruntime, int8, fused": by_class(onnxruntime("int8")),
    "fastembed, f32, fused": by_class(fastembed),
    "model2vec, static": by_class(model2vec),
    "SentenceTransformer here, static": by_class(own_static),
}
#: What is made before a run, for the ways whose names have one of the words.
MADE = {ONNX: (make_onnx, ("onnxruntime", "fastembed")), STATIC: (make_static, ("static",))}


def child(options):
    import numpy as np

    first, took, vectors = WAYS[options.way](options)
    np.save(options.out, np.asarray(vectors, dtype=np.float32))
    print(json.dumps({"first": first, "took": took, "rows": len(vectors)}), flush=True)


def memory(pid):
    """MiB of a process and its children, shared pages divided among them."""
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        try:
            waiting += [int(c) for c in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total / 1024


def measure(folder, options, way, out):
    line = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--out", out, "--made", folder]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    begin = time.perf_counter()
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    most, done = [0.0], threading.Event()

    def watch():
        while not done.wait(0.1):
            most[0] = max(most[0], memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    said, _ = process.communicate()
    done.set()
    watcher.join()
    if process.returncode != 0:
        return None
    return {**json.loads(said.splitlines()[-1]), "whole": time.perf_counter() - begin, "memory": most[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--made", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        return child(options)
    import numpy as np

    ways = [way for way in WAYS if not options.only or any(word in way for word in options.only.split(","))]
    runs, vectors = {way: [] for way in ways}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (make, words) in MADE.items():
            if any(word in way for way in ways for word in words):
                make(Path(folder) / name)
        for _ in range(options.repeat):
            for way in ways:
                out = f"{folder}/{ways.index(way)}.npy"
                ran = measure(folder, options, way, out)
                if ran:
                    runs[way].append(ran)
                    vectors[way] = np.load(out)
    originals = {way: vectors.get("model2vec, static" if "static" in way else "sentence-transformers") for way in ways}
    print("| way | rows/s | whole process, s | to the first vector, s | memory, MiB | least / mean cosine |\n|---|---|---|---|---|---|")
    for way in ways:
        if not runs[way]:
            print(f"| {way} | failed | | | | |")
            continue
        middle = {key: statistics.median(run[key] for run in runs[way]) for key in ("took", "whole", "memory", "rows")}
        firsts = [run["first"] for run in runs[way] if run["first"] is not None]
        first = f"{statistics.median(firsts):.2f}" if firsts else ""
        agreement = ""
        if originals[way] is not None:
            exact = originals[way] / np.linalg.norm(originals[way], axis=1, keepdims=True)
            ours = vectors[way] / np.linalg.norm(vectors[way], axis=1, keepdims=True)
            cosines = (exact * ours).sum(axis=1)
            agreement = f"{cosines.min():.5f} / {cosines.mean():.5f}"
        print(f"| {way} | {middle['rows'] / middle['took']:.0f} | {middle['whole']:.1f} | {first} | {middle['memory']:.0f} | {agreement} |")


if __name__ == "__main__":
    main()
