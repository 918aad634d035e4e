"""SQL over what lies in a store, and on a cluster: servers as processes, each ended by its test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

import datafusion_embed
from datafusion_embed import SentenceTransformer

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

TARGET = os.environ.get("CARGO_TARGET_DIR", str(Path.home() / ".cache/datafusion-embed/target"))
#: What `.ci/servers` installs.
MOTO = Path(os.environ.get("DATAFUSION_EMBED_SERVERS", f"{TARGET}/servers")) / "moto/bin/moto_server"
TOKEN = "a token of sixteen characters and more"


@contextmanager
def running(line: list[str], address: str, **environment: str) -> Iterator[str]:
    """A process, until the end; gives what a pattern finds in what it says."""
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    ) as process:
        assert process.stdout is not None
        try:
            said = next(found for found in (re.search(address, text) for text in process.stdout) if found)
            yield said.group(1)
        finally:
            process.kill()


@contextmanager
def embedsql(*line: str) -> Iterator[str]:
    command = [sys.executable, "-m", "datafusion_embed", *line, "--until-stdin-ends"]
    with running(command, "listening on (.*)", EMBEDSQL_TOKEN=TOKEN) as address:
        yield address


@pytest.fixture
def docs(tmp_path: Path, texts: list[str]) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for part in range(4):
        own = texts[part::4]
        parquet.write_table(pa.table({"id": range(part, 4 * len(own), 4), "body": own}), folder / f"{part}.parquet")
    return folder


def test_a_cluster(docs: Path, tmp_path: Path, texts: list[str], model: SentenceTransformer) -> None:
    with embedsql("scheduler", "--bind", "127.0.0.1:0") as scheduler, embedsql("executor", "--scheduler", scheduler):
        con = datafusion_embed.connect(model=TINY, cluster=scheduler, token=TOKEN)
        found = con.sql(f"SELECT id, embed(body) AS v FROM '{docs}/' ORDER BY id").to_arrow()
        assert found["id"].to_pylist() == list(range(len(texts)))
        assert (np.stack(found["v"].to_numpy()) == model.encode(texts)).all()
        out = tmp_path / "vectors"
        con.sql(f"COPY (SELECT id, embed(body) AS v FROM '{docs}/') TO '{out}/' STORED AS PARQUET")
        assert parquet.read_table(out).num_rows == len(texts)
        frame = found.slice(0, 3)
        with pytest.raises((ValueError, RuntimeError), match="table"):
            con.sql(f"SELECT count(*) FROM frame JOIN '{docs}/' AS d ON d.id = frame.id WHERE embed(d.body) IS NOT NULL").fetchall()
        # Nothing of a token is in an error.
        stranger = datafusion_embed.connect(model=TINY, cluster=scheduler, token="another token of sixteen characters")
        with pytest.raises((OSError, RuntimeError)) as error:
            stranger.sql(f"SELECT count(*) FROM '{docs}/'").fetchall()
        assert scheduler in str(error.value) and "sixteen" not in str(error.value)
    with pytest.raises(ValueError, match="16"):
        datafusion_embed.connect(cluster=scheduler, token="short")


@pytest.mark.skipif(not MOTO.exists(), reason=".ci/servers has not installed moto")
def test_a_bucket(docs: Path, texts: list[str], model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    with running([str(MOTO), "-H", "127.0.0.1", "-p", "0"], "Running on (http://[0-9.:]*)") as url:
        authorization = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        request = urllib.request.Request(f"{url}/bucket", method="PUT", headers={"authorization": authorization})
        urllib.request.urlopen(request).close()
        variables = {
            "ENDPOINT_URL": url, "ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "REGION": "us-east-1", "ALLOW_HTTP": "true",
        }  # fmt: skip
        for name, value in variables.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        con = datafusion_embed.connect(model=TINY)
        con.sql(f"COPY (SELECT id, embed(body) AS v FROM '{docs}/') TO 's3://bucket/vectors/' STORED AS PARQUET")
        found = con.sql("SELECT id, v FROM 's3://bucket/vectors/' ORDER BY id").to_arrow()
        assert (np.stack(found["v"].to_numpy()) == model.encode(texts)).all()
        with pytest.raises(OSError, match="nosuch"):
            con.sql("SELECT * FROM 's3://bucket/nosuch.parquet'").fetchall()
