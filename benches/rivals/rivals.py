"""Engines that run all-MiniLM-L6-v2 on a CPU, embedsql among them: speed, memory and how near their vectors are.

Every run is a process of its own, bound to the same CPUs, with the same number of threads and the same rows: the first
ROWS of the file without NULL bodies and without repeated ones, which embedsql alone would spare itself. The engines run
in turns, so that noise of the machine hits all alike, and the median of the runs is shown. The model comes from
models/all-MiniLM-L6-v2 and is converted from there where an engine has a format of its own; nothing is downloaded.

Inside the clock: tokenising (256 tokens at most), encoding, mean pooling, normalising; for embedsql also reading and
writing Parquet, which the others are spared. Outside: starting, importing, loading and converting the model, a warm-up.
The runtimes get their texts sorted by tokens, in batches padded to their longest text; sentence-transformers sorts by
itself. Tokens are real ones, without padding.

Left out: GPUs, start-up, several processes at once, other allocators than the default one, and other models.
"""

import argparse
import hashlib
import importlib.metadata
import inspect
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Only the standard library up here: the process that starts the others has to stay small (see Embedsql.encode), and
# no engine's memory should contain another engine.

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "all-MiniLM-L6-v2"
MAX_TOKENS = 256  # sentence-transformers' limit for this model; its tokenizer.json says 128
INPUTS = ("input_ids", "attention_mask")
WARM_UP = 16  # texts
CALIBRATION = 300  # texts of the first file that is measured, for an engine that is quantised once
LIBRARIES = (
    "sentence-transformers",
    "torch",
    "transformers",
    "tokenizers",
    "onnxruntime",
    "openvino",
    "nncf",
    "ctranslate2",
    "fastembed",
)
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")


def tokenizer():
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    loaded.enable_truncation(max_length=MAX_TOKENS)
    loaded.no_padding()
    return loaded


def torch_model(attention):
    import torch
    from transformers import AutoModel

    # The stored weights are f16; the encoder computes in f32 for everyone unless a precision is asked for.
    return AutoModel.from_pretrained(MODEL, dtype=torch.float32, attn_implementation=attention).eval()


class SentenceTransformers:
    """The reference, used as its documentation does."""

    def __init__(self, precision, options):
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(options.threads)
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.model = SentenceTransformer(str(MODEL), device="cpu", model_kwargs={"dtype": dtype})
        self.batch = options.batch

    def encode(self, texts):
        return self.model.encode(texts, batch_size=self.batch, normalize_embeddings=True)


class Runtime:
    """What the engines share that give hidden states of a batch of token ids: tokenising, sorting, pooling."""

    def __init__(self, options):
        self.tokenizer = tokenizer()
        self.batch = options.batch

    def encode(self, texts):
        import numpy

        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        # Longest first, so that the largest buffers are allocated once.
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]), reverse=True)
        vectors = numpy.empty((len(ids), 384), numpy.float32)
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            batch = [ids[row] for row in rows]
            mask = numpy.zeros((len(batch), len(batch[0])), numpy.int64)
            for row, tokens in enumerate(batch):
                mask[row, : len(tokens)] = 1
            # The mean as a product: reads the hidden states once and copies nothing. Its length does not matter.
            pooled = numpy.matmul(mask[:, None, :].astype(numpy.float32), self.hidden(batch, mask))[:, 0]
            vectors[rows] = pooled / numpy.linalg.norm(pooled, axis=1, keepdims=True)
        return vectors

    @staticmethod
    def padded(batch, mask):
        import numpy

        ids = numpy.zeros_like(mask)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens
        return dict(zip(INPUTS, (ids, mask)))


class OnnxRuntime(Runtime):
    """Attention, LayerNorm and GELU fused; int8 is dynamic, with a scale per output channel."""

    def __init__(self, precision, options):
        import onnxruntime

        super().__init__(options)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        file = options.cache / f"onnxruntime/{precision}.onnx"
        self.session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])

    def hidden(self, batch, mask):
        return self.session.run(None, self.padded(batch, mask))[0]

    @staticmethod
    def convert(folder, _texts):
        import onnx
        import torch
        from onnxruntime.quantization import quantize_dynamic
        from onnxruntime.transformers.optimizer import optimize_model

        class Encoder(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.bert = torch_model("eager")  # the attention whose graph the optimizer knows

            def forward(self, ids, mask):
                return self.bert(input_ids=ids, attention_mask=mask).last_hidden_state

        example = torch.ones((2, 8), dtype=torch.long)
        plain, fused = folder / "plain.onnx", folder / "f32.onnx"
        free = {0: "batch", 1: "tokens"}
        torch.onnx.export(
            Encoder(),
            (example, example),
            plain,
            input_names=list(INPUTS),
            output_names=["hidden"],
            dynamic_axes=dict.fromkeys((*INPUTS, "hidden"), free),
            opset_version=17,
            dynamo=False,  # the optimizer's patterns are those of this exporter
        )
        model = optimize_model(str(plain), model_type="bert", num_heads=12, hidden_size=384, opt_level=0)
        fusions = model.get_fused_operator_statistics()
        if fusions["Attention"] != 6:
            raise RuntimeError(f"attention was not fused in all 6 layers: {fusions}")
        model.save_model_to_file(str(fused))
        # The fused operators are unknown to ONNX's shape inference, which has to be told their type.
        known = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(fused, folder / "int8.onnx", per_channel=True, extra_options=known)
        plain.unlink()


class OpenVino(Runtime):
    """One stream with all threads: faster here than a stream per thread. int8 is static, by NNCF, with bf16 for the rest where there is
    bf16."""

    def __init__(self, precision, options):
        import openvino

        super().__init__(options)
        core = openvino.Core()
        file, hint = "model.xml", precision
        if precision == "int8":
            file, hint = "int8.xml", "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": options.threads,
            "NUM_STREAMS": 1,
        }
        model = core.compile_model(options.cache / "openvino" / file, "CPU", settings)
        used = model.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used != hint:
            raise RuntimeError(f"{hint} was asked for, {used} is what this processor gets")
        self.request = model.create_infer_request()

    def hidden(self, batch, mask):
        # Without copying: the result is pooled before the next batch overwrites it.
        return self.request.infer(self.padded(batch, mask), share_inputs=True, share_outputs=True)["last_hidden_state"]

    @staticmethod
    def convert(folder, texts):
        import nncf
        import numpy
        import openvino
        import torch

        example = dict.fromkeys(INPUTS, torch.ones((2, 8), dtype=torch.long))
        model = openvino.convert_model(torch_model("sdpa"), example_input=example)
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)

        encode = tokenizer().encode

        def inputs(text):
            ids = numpy.array([encode(text).ids])
            return dict(zip(INPUTS, (ids, numpy.ones_like(ids))))

        dataset = nncf.Dataset(texts[:CALIBRATION], inputs)
        quantized = nncf.quantize(model, dataset, subset_size=CALIBRATION, model_type=nncf.ModelType.TRANSFORMER)
        openvino.save_model(quantized, folder / "int8.xml", compress_to_fp16=False)


class FastEmbed:
    """onnxruntime with tokenising and pooling of its own; gets the graph that is fused for onnxruntime above."""

    def __init__(self, _precision, options):
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        TextEmbedding.add_custom_model(
            model="local",
            pooling=PoolingType.MEAN,
            normalization=True,
            sources=ModelSource(hf="local"),
            dim=384,
            model_file="f32.onnx",
        )
        folder = str(options.cache / "fastembed")
        self.model = TextEmbedding("local", specific_model_path=folder, threads=options.threads)
        self.batch = options.batch

    def encode(self, texts):
        import numpy

        # In the order of their length, as the runtimes above get them.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]), reverse=True)
        vectors = numpy.empty((len(texts), 384), numpy.float32)
        vectors[order] = list(self.model.embed([texts[row] for row in order], batch_size=self.batch))
        return vectors

    @staticmethod
    def convert(folder, texts):
        OnnxRuntime.convert(folder, texts)
        for name in ("config.json", "tokenizer.json", "special_tokens_map.json"):
            shutil.copy(MODEL / name, folder)
        config = json.loads((MODEL / "tokenizer_config.json").read_text()) | {"model_max_length": MAX_TOKENS}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))


class CTranslate2(Runtime):
    """One worker with all threads: faster here than a worker per thread."""

    def __init__(self, precision, options):
        import ctranslate2

        super().__init__(options)
        kind = {"f32": "float32", "int8": "int8_float32"}[precision]
        self.encoder = ctranslate2.Encoder(
            str(options.cache / "ctranslate2"), compute_type=kind, inter_threads=1, intra_threads=options.threads
        )
        if self.encoder.compute_type != kind:
            raise RuntimeError(f"{kind} was asked for, {self.encoder.compute_type} is what this processor gets")

    def hidden(self, batch, mask):
        import numpy

        return numpy.array(self.encoder.forward_batch(batch).last_hidden_state, copy=False)

    @staticmethod
    def convert(folder, _texts):
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(MODEL)).convert(str(folder), force=True)


class Embedsql:
    """A process of its own below this one, Parquet to Parquet; the clock is now() before and after the COPY."""

    def __init__(self, precision, options):
        self.command = [options.embedsql, "--quiet", "--format", "csv"]
        self.command += ["--threads", str(options.threads), "--precision", precision]
        self.work = options.work
        self.peak_kib = 0

    def encode(self, _texts):
        """Gives seconds; the vectors stay in Parquet."""
        # now() is the time at which its statement was planned, so the second one comes after the COPY.
        now = "SELECT 'clock', arrow_cast(now(), 'Int64')"
        rows, vectors = self.work / "rows.parquet", self.work / "vectors.parquet"
        copy = f"COPY (SELECT id, embed(body) AS vector FROM '{rows}') TO '{vectors}'"
        command = list(self.command)
        for statement in ("SELECT embed('load the model') IS NULL", now, copy, now):
            command += ["-c", statement]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output = process.stdout.read()
        # The kernel counts what a child held before its exec, too: this process has imported nothing large.
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise RuntimeError(output.strip() or f"wait status {status}")
        self.peak_kib = usage.ru_maxrss
        before, after = (int(line.split(",")[1]) for line in output.splitlines() if line.startswith("clock,"))
        return (after - before) / 1e9


ENGINES = {
    "sentence-transformers": (SentenceTransformers, ("f32", "bf16")),
    "onnxruntime": (OnnxRuntime, ("f32", "int8")),
    "openvino": (OpenVino, ("f32", "bf16", "int8")),
    "ctranslate2": (CTranslate2, ("f32", "int8")),
    "fastembed": (FastEmbed, ("f32",)),
    "embedsql": (Embedsql, ("f32", "bf16", "int8")),
}
REFERENCE = "sentence-transformers f32"


# Steps: each runs in a process of its own and prints one JSON object as its last line.


def step_prepare(options):
    """Writes the rows and counts their tokens."""
    import pyarrow
    import pyarrow.parquet

    texts = {}  # a dict keeps the order of the file
    for batch in pyarrow.parquet.ParquetFile(options.file).iter_batches(columns=["body"]):
        texts.update(dict.fromkeys(body for body in batch.column(0).to_pylist() if body is not None))
        if len(texts) >= options.rows:
            break
    texts = list(texts)[: options.rows]
    table = pyarrow.table({"id": pyarrow.array(range(len(texts)), pyarrow.int64()), "body": texts})
    pyarrow.parquet.write_table(table, options.work / "rows.parquet")
    # The engines read JSON, so that no Parquet reader counts as their memory.
    (options.work / "rows.json").write_text(json.dumps(texts))
    return {"rows": len(texts), "tokens": sum(len(encoding.ids) for encoding in tokenizer().encode_batch(texts))}


def step_convert(options):
    """Converts the model for one engine, unless it was done before."""
    convert = getattr(ENGINES[options.engine][0], "convert", None)
    folder = options.cache / options.engine
    if convert is not None and not folder.exists():
        # Under another name until it is whole.
        with tempfile.TemporaryDirectory(dir=options.cache) as directory:
            unfinished = Path(directory) / "model"
            unfinished.mkdir()
            convert(unfinished, json.loads((options.work / "rows.json").read_text()))
            unfinished.rename(folder)
    return {}


def step_measure(options):
    """Runs one engine once."""
    engine = ENGINES[options.engine][0](options.precision, options)
    texts = json.loads((options.work / "rows.json").read_text())
    if options.engine == "embedsql":
        return {"seconds": engine.encode(texts), "peak_mib": engine.peak_kib / 1024}
    import numpy

    engine.encode(texts[:WARM_UP])
    start = time.perf_counter()
    vectors = engine.encode(texts)
    seconds = time.perf_counter() - start
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    numpy.save(options.work / "vectors.npy", vectors)
    return {"seconds": seconds, "peak_mib": int(peak.split()[1]) / 1024}


def step_compare(options):
    """Cosines of the vectors last written to those of the reference; as the reference, it keeps them."""
    import numpy
    import pyarrow.parquet

    if options.engine == "embedsql":
        table = pyarrow.parquet.read_table(options.work / "vectors.parquet").sort_by("id")
        if table["id"].to_pylist() != list(range(options.rows)):
            raise RuntimeError("the ids that were written are not those that were read")
        vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(options.rows, -1)
    else:
        vectors = numpy.load(options.work / "vectors.npy")
    vectors = vectors.astype(numpy.float64)
    vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
    kept = options.work / "reference.npy"
    if f"{options.engine} {options.precision}" == REFERENCE:
        numpy.save(kept, vectors)
    if not kept.exists():
        return {}
    cosines = (vectors * numpy.load(kept)).sum(axis=1)
    return {"least": cosines.min(), "mean": cosines.mean()}


STEPS = {"prepare": step_prepare, "convert": step_convert, "measure": step_measure, "compare": step_compare}


def child(options):
    # openvino reports its use over the network through this package; where it is missing, it does without.
    sys.modules["openvino_telemetry"] = None
    try:
        result = STEPS[options.step](options)
    except Exception as error:
        if options.verbose:
            raise
        message = str(error).strip() or "no message"
        result = {"error": f"{type(error).__name__}: {message.splitlines()[0]}"}
    print("\n" + json.dumps(result))


class Failed(Exception):
    """What went wrong in a step."""


def run_step(step, options, rows, engine="", precision=""):
    """Runs a step in a process of its own; gives its result."""
    command = [sys.executable, __file__, "--step", step, "--engine", engine, "--precision", precision]
    for name in ("threads", "batch", "file", "cache", "embedsql", "work"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--rows", str(rows)] + ["--verbose"] * options.verbose
    threads = str(options.threads)
    # Threads that spin while they wait make torch several times slower as soon as anything else wants a CPU.
    environment = {"OMP_WAIT_POLICY": "passive"} | os.environ
    environment |= {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "RAYON_NUM_THREADS": threads,  # the tokenizer's
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    errors = None if options.verbose else subprocess.DEVNULL
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, check=False)
    try:
        result = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise Failed(f"ended with status {done.returncode} (--verbose shows why)") from None
    if "error" in result:
        raise Failed(result["error"])
    return result


def run_engine(name, options, rows, runs):
    """One turn of one engine; its result goes into `runs`."""
    engine, precision = name.split()
    if not runs:
        run_step("convert", options, rows, engine)
    measured = run_step("measure", options, rows, engine, precision)
    if not runs:
        measured |= run_step("compare", options, rows, engine, precision)
    runs.append(measured)


def line(name, rows, tokens, runs, error):
    """The row of a table, and what it is sorted by."""
    engine, precision = name.split()
    if error is not None:
        return 0, f"| {engine} | {precision} | failed: {error.replace('|', '/')} | | | | |"
    seconds = statistics.median(run["seconds"] for run in runs)
    peak = statistics.median(run["peak_mib"] for run in runs)
    cosine = [f"{runs[0][key]:.5f}" if key in runs[0] else "–" for key in ("least", "mean")]
    cells = [engine, precision, f"{rows / seconds:.1f}", f"{tokens / seconds:.0f}", f"{peak:.0f}", *cosine]
    return tokens / seconds, f"| {' | '.join(cells)} |"


def machine():
    """Name of the processor, and those of its instructions that matter here."""
    info = {}
    for entry in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = entry.partition(":")
        info.setdefault(key.strip(), value.strip())
    flags = info.get("flags", info.get("Features", "")).split()
    family = f"family {info['cpu family']} model {info['model']}, " if "cpu family" in info else ""
    return f"{info.get('model name', 'unknown')} ({family}{' '.join(flag for flag in CPU_FLAGS if flag in flags)})"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each engine; the median is shown")
    parser.add_argument("--batch", type=int, default=16, help="texts in a batch of every engine but embedsql")
    parser.add_argument("--file", type=Path, default=Path("sql/docs.parquet"), help="Parquet with a column body")
    parser.add_argument("--cache", type=Path, required=True, help="folder for converted models")
    parser.add_argument("--embedsql", default="target/release/embedsql")
    parser.add_argument("--only", default="", help="names with any of these words, such as openvino,f32")
    parser.add_argument("--verbose", action="store_true", help="show what the engines say, and whole tracebacks")
    for name in ("--step", "--engine", "--precision", "--work"):  # of the processes that this program starts
        parser.add_argument(name, help=argparse.SUPPRESS, type=Path if name == "--work" else str)
    return parser.parse_args()


def main():
    options = arguments()
    if options.step:
        child(options)
        return 0
    cpus = sorted(os.sched_getaffinity(0))[: options.threads]
    if len(cpus) < options.threads:
        sys.exit(f"{options.threads} threads need as many CPUs; there are {len(cpus)}")
    os.sched_setaffinity(0, cpus)  # children inherit it

    # Converted models belong to these weights and to this way of converting them.
    made_by = hashlib.sha256((MODEL / "model.safetensors").read_bytes())
    for function in (torch_model, OnnxRuntime.convert, OpenVino.convert, CTranslate2.convert, FastEmbed.convert):
        made_by.update(inspect.getsource(function).encode())
    options.cache = options.cache.resolve() / f"models-{made_by.hexdigest()[:12]}"
    options.cache.mkdir(parents=True, exist_ok=True)

    names = [f"{engine} {precision}" for engine, (_, precisions) in ENGINES.items() for precision in precisions]
    if options.only:
        names = [name for name in names if any(word in name for word in options.only.split(","))]
    runs, errors = {name: [] for name in names}, {}
    with tempfile.TemporaryDirectory() as work:
        options.work = Path(work)
        try:
            prepared = run_step("prepare", options, options.rows)
        except Failed as error:
            sys.exit(f"{options.file}: {error}")
        rows, tokens = prepared["rows"], prepared["tokens"]
        for turn in range(options.repeat):
            for name in names:
                if name in errors:
                    continue
                print(f"turn {turn + 1} of {options.repeat}: {name}", file=sys.stderr)
                try:
                    run_engine(name, options, rows, runs[name])
                except Failed as error:
                    errors[name] = str(error)

    lines = [line(name, rows, tokens, runs[name], errors.get(name)) for name in names]
    try:
        version = subprocess.run([options.embedsql, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError as error:  # its rows say it, too
        version = f"embedsql: {error}"
    print(f"{machine()}, {options.threads} threads; {options.file}: {rows} rows, {tokens} tokens;")
    print(f"median of {options.repeat} runs; batches of {options.batch} texts.\n")
    print(", ".join(f"{library} {importlib.metadata.version(library)}" for library in LIBRARIES) + ",")
    print(", ".join(entry for entry in version.splitlines() if entry.startswith(("embedsql", "kernels"))) + "\n")
    print(f"| engine | precision | rows/s | tokens/s | peak MiB | least cosine to {REFERENCE} | mean |")
    print("|---|---|---|---|---|---|---|")
    for _, text in sorted(lines, key=lambda pair: pair[0], reverse=True):
        print(text)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
