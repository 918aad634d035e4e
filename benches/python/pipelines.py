"""Python's ways to embed a column of texts, side by side on the same rows.

    python benches/python/pipelines.py --file FILE.parquet --model FOLDER [--rows 2000] [--threads 2] [--repeat 3] [--only NAME,NAME]

Each way is a process of its own, in turns, and the median counts: seconds of the whole process, rows/s of the embedding alone, the most
memory that the process and its children have together, seconds from the start to the first vector. That the work is equal is shown by
the least and the mean cosine to the vectors of sentence-transformers. The package of this repository, sentence-transformers, pyarrow and,
for its ways, ray have to be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

START = time.perf_counter()


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
    return SentenceTransformer(options.model, device="cpu", model_kwargs={"dtype": torch.float32})


def own_class(arithmetic):
    def make(options):
        from datafusion_embed import SentenceTransformer

        return SentenceTransformer(options.model, arithmetic=arithmetic, threads=options.threads)

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

            arguments = {"model": options.model, "column": "body", "arithmetic": ours, "threads": options.threads}
        else:
            worker, arguments = Theirs, {"model": options.model, "threads": options.threads}
        begin = time.perf_counter()
        rows = ray.data.from_items(items).map_batches(
            worker, fn_constructor_kwargs=arguments, batch_size=512, concurrency=1, num_cpus=options.threads
        )
        found = sorted(rows.take_all(), key=lambda row: row["id"])
        took = time.perf_counter() - begin
        return None, took, np.stack([row["embedding"] for row in found])

    return run


def by_sql(arithmetic):
    def run(options):
        import numpy as np
        import pyarrow as pa

        import datafusion_embed

        con = datafusion_embed.connect(model=options.model, arithmetic=arithmetic, threads=options.threads)
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
}


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


def measure(options, way, out):
    line = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--out", out]
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
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        return child(options)
    import numpy as np

    ways = [way for way in WAYS if not options.only or any(word in way for word in options.only.split(","))]
    runs, vectors = {way: [] for way in ways}, {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.repeat):
            for way in ways:
                out = f"{folder}/{ways.index(way)}.npy"
                ran = measure(options, way, out)
                if ran:
                    runs[way].append(ran)
                    vectors[way] = np.load(out)
    exact = vectors.get("sentence-transformers")
    print("| way | rows/s | whole process, s | to the first vector, s | memory, MiB | least / mean cosine |\n|---|---|---|---|---|---|")
    for way in ways:
        if not runs[way]:
            print(f"| {way} | failed | | | | |")
            continue
        middle = {key: statistics.median(run[key] for run in runs[way]) for key in ("took", "whole", "memory", "rows")}
        firsts = [run["first"] for run in runs[way] if run["first"] is not None]
        first = f"{statistics.median(firsts):.2f}" if firsts else ""
        agreement = ""
        if exact is not None:
            ours = vectors[way] / np.linalg.norm(vectors[way], axis=1, keepdims=True)
            cosines = (exact * ours).sum(axis=1)
            agreement = f"{cosines.min():.5f} / {cosines.mean():.5f}"
        print(f"| {way} | {middle['rows'] / middle['took']:.0f} | {middle['whole']:.1f} | {first} | {middle['memory']:.0f} | {agreement} |")


if __name__ == "__main__":
    main()
