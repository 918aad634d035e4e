"""sentence-transformers' own tests of encode and its sisters, with the original class and with the one here.

    pip install sentence-transformers datasets pytest
    python python/tests/original.py DIR

DIR is a copy of the source of sentence-transformers, whose package has no tests in it. The models that they fetch are made by
`models` below, tiny and with random weights, so what asks for values of a trained model fails with both classes. Prints a table: for each
test how many of its cases pass with the original, and here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

FILES = [
    "tests/test_sentence_transformer.py",
    "tests/test_compute_embeddings.py",
    "tests/test_multi_process.py",
    "tests/util/test_similarity.py",
]

#: Where the models are, for the process that runs the tests, and whose class it takes.
MODELS, CLASS = "ORIGINAL_TESTS_MODELS", "ORIGINAL_TESTS_CLASS"


def models(folder: Path) -> None:
    """Directories for the names on the hub."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "fixtures"))
    import make
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
    from transformers import BertConfig

    def bert(name: str, width: int) -> None:
        config = BertConfig(
            vocab_size=len(make.vocabulary()), hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=2 * width
        )
        with tempfile.TemporaryDirectory() as temp:
            weights = make.random_bert(config, seed=1)
            with torch.no_grad():
                weights.encoder.layer[-1].output.LayerNorm.bias += 0.1  # of a trained model the mean is not 0
            weights.save_pretrained(temp)
            make.tokenizer(512).save_pretrained(temp)
            first = Transformer(temp)
        SentenceTransformer(modules=[first, Pooling(width, "mean")], device="cpu").save(str(folder / name), create_model_card=False)

    bert("sentence-transformers-testing/stsb-bert-tiny-safetensors", 128)
    bert("paraphrase-distilroberta-base-v1", 768)
    table = StaticEmbedding(make.tokenizer(512)._tokenizer, embedding_dim=1024)
    name = "sentence-transformers/static-retrieval-mrl-en-v1"
    SentenceTransformer(modules=[table], device="cpu").save(str(folder / name), create_model_card=False)


# As a plugin of pytest, and in the processes of a pool: the tests import a class that knows the models.
if CLASS in os.environ:
    import sentence_transformers

    import datafusion_embed

    ours = os.environ[CLASS] == "here"
    tested: Any = (datafusion_embed if ours else sentence_transformers).SentenceTransformer

    class SentenceTransformer(tested):
        def __init__(self, name: str | None = None, **settings: Any) -> None:
            directory = Path(os.environ[MODELS]) / str(name)
            if ours:
                # What the fixtures switch off in a model's card, which is none here.
                self.model_card_data = SimpleNamespace()
            super().__init__(str(directory) if directory.is_dir() else name, **settings)

    sentence_transformers.SentenceTransformer = SentenceTransformer


def renamed(source: Path, copy: Path) -> Path:
    """The tests, with the name that the first parameter has had since version 6."""
    shutil.copytree(source / "tests", copy / "tests")
    for file in FILES:
        text = (copy / file).read_text()
        (copy / file).write_text(text.replace('kwargs["sentences"]', 'kwargs["inputs"]'))
    return copy


def run(source: Path, folder: str, tested: str) -> dict[str, list[bool]]:
    """Whether each case of a test passes; what is skipped is left out."""
    report = Path(folder) / f"{tested}.xml"
    environment = {
        **os.environ, MODELS: folder, CLASS: tested, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(Path(__file__).parent),
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "original", f"--junitxml={report}", *FILES]
    subprocess.run(command, cwd=source, env=environment, stdout=sys.stderr, check=False)
    cases: dict[str, list[bool]] = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if "skipped" not in kinds:
            cases[case.attrib["name"].split("[")[0]].append(not kinds & {"failure", "error"})
    return cases


def main() -> None:
    source = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        models(Path(folder))
        source = renamed(source, Path(folder) / "source")
        original, here = (run(source, folder, tested) for tested in ("original", "here"))
    nowhere = [len(cases) for name, cases in original.items() if not any(cases + here[name])]
    print("| test | cases | pass with the original | pass here |\n|---|---|---|---|")
    for name, cases in original.items():
        if any(cases + here[name]):
            print(f"| `{name}` | {len(cases)} | {sum(cases)} | {sum(here[name])} |")
    print(f"| {len(nowhere)} others | {sum(nowhere)} | 0 | 0 |")
    total = [sum(map(len, original.values())), sum(map(sum, original.values())), sum(map(sum, here.values()))]
    print("| all | " + " | ".join(map(str, total)) + " |")


if __name__ == "__main__":
    main()
