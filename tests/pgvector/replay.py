"""Statements of pgvector's own regression tests, run by embedsql: are the results those that pgvector expects?

    git clone https://github.com/pgvector/pgvector
    python tests/pgvector/replay.py pgvector target/release/embedsql [--all]

The files `test/expected/*.out` of pgvector are transcripts of psql: a statement, then its result or its error. Each
statement is written in our words, run, and compared: vectors and truth exactly, numbers to six digits, an error with
any error. --all prints every statement with what became of it. What differs stands in DIFFERENCES, what cannot be said
in NOT_APPLICABLE, each with its reason. An entry of either that no statement needs is an error too, as is a statement
of DIFFERENCES that does not differ.

Last run with pgvector e48241b4dcc045b18902914f668d03d1d399dfbe.
"""

import argparse
import json
import math
import re
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FILES = ["vector_type", "halfvec", "bit", "cast", "btree", "copy"]

# Both tables have patterns that are looked for in a statement, behind the last CREATE TABLE.
DIFFERENCES = {
    r"[\[{]-?(NaN|Infinity)": "NaN and infinity are numbers of a vector",
    r"'(\[ ?\]|\{\})'::": "a vector may have no values",
    r"subvector\(.*, (1, 0|-1, 2|2147483647, 10)\)": "a slice of nothing is a vector of no values",
    r"array_fill|array_agg\(n\)::": "a vector may have more than 16000 values",
    r"'\{NULL\}'": "a list may have a NULL; it is an error where the list is computed with",
    r"[\[{](4e38,-4e38\}|65520)": "a cast is Arrow's, and makes infinity of what is too large for the type",
    r"\[-?(3e38|1e37|65519)\]'::\w+ [-+*]|sum\(.*\[3e38\]": "a result too large for the type is infinity",
    r"\[1e-(37|7)\]'::\w+ \*": "a result too small for the type is 0",
    r"sum\(.*\[65504\]": "sums of Float16 are Float32",
    r"cosine_distance\(.*, '\[0,0\]'": "the cosine of a vector of zeros is 0, and so its distance is 1",
    r"cosine_distance\('\[3e38\]'": "the distance is right, although the squares are too large for Float32",
    r"hamming\w+\('111', '00(00)?'|jaccard\w+\('1111', '000(00)?'": "bits fill up bytes, and only their number counts",
}
NOT_APPLICABLE = {
    r"sparsevec": "there are no sparse vectors",
    r"_(avg|accum|combine)\(|array_to_vector\(": "functions behind an aggregate or a cast, which nobody calls",
    r"::(vector|halfvec)\((3, 2|'a'|0|16001)\)": "what may be a modifier of a type; a length is Arrow's here",
    r"CREATE INDEX|enable_seqscan": "there are no indexes",
}

# Where only the name differs, or what stands around it.
NAMES = {
    r"^SELECT (.*) \+ (.*)": r"SELECT vector_add(\1, \2)",
    r"^SELECT (.*) - (.*)": r"SELECT vector_sub(\1, \2)",
    r"^SELECT (.*) \* (.*)": r"SELECT vector_mul(\1, \2)",
    r"\bvector_dims\(": "array_length(",
    r"\bl2_norm\(": "vector_norm(",
    r"\bl2_normalize\(": "vector_normalize(",
    r"\bsubvector\(": "vector_slice(",
    r"\bbinary_quantize\(": "quantize_binary(",
    r"\binner_product\(": "-negative_inner_product(",
    r"\bcosine_distance\(": "1 - cosine_similarity(",
    r"\w+_cmp\((.*\)), (vector.*|arrow_cast.*)\)": r"CASE WHEN \1 < \2 THEN -1 WHEN \1 > \2 THEN 1 ELSE 0 END",
    r"FROM unnest\((.*)\) v$": r"FROM (SELECT unnest(\1) AS v)",
    r"(FROM generate_series\(.*\)) n$": r"\1 AS s(n)",
    r"array_fill\((\d+), ARRAY\[(\d+)\]\)": r"array_repeat(\1, \2)",
}
VECTORS = ("vector", "halfvec")
NUMBERS = {"vector": "Float32", "halfvec": "Float16", "real": "Float32", "double precision": "Float64"}
NUMBERS["numeric"] = "Decimal128(9, 3)"
CAST = r"::(vector|halfvec|varbit|real|double precision|numeric)(?:\((\d+)\))?(\[\])?"
VALUE = rf"('[^']*'|ARRAY\[[^\[\]]*\]|array_fill\(.*?\]\)|array_agg\(\w+\))((?:{CAST})*)"


def statements(transcript):
    """Each statement with the rows of its result; None for an error."""
    lines = transcript.splitlines()
    for number, line in enumerate(lines):
        # Results are indented.
        if re.match(r"\s|$|-|\(\d|(ERROR|LINE|DETAIL|HINT|CONTEXT)\b", line):
            continue
        if not re.match(r"\\|.*;$", line):
            sys.exit(f"a statement of more than one line, which this script cannot read: {line}")
        behind, rows = lines[number + 1 :], []
        if behind and behind[0].startswith("ERROR:"):
            rows = None
        elif len(behind) > 1 and re.fullmatch("-+", behind[1]):
            end = next(at for at, row in enumerate(behind) if re.fullmatch(r"\(\d+ rows?\)", row))
            rows = [row.strip() for row in behind[2:end]]
        yield line.rstrip(";"), rows


def packed(bits):
    """Eight bits to a byte, the first in the highest."""
    return [int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8)]


def cast(sql, kind, length="", is_array=False):
    lists = f"FixedSizeList({length}, {NUMBERS[kind]})" if length else f"List({NUMBERS[kind]})"
    # An array of vectors is a list of lists, an array of numbers is what a vector is.
    return f"arrow_cast({sql}, '{f'List({lists})' if is_array and kind in VECTORS else lists}')"


def literal(text, kind, length=""):
    """A text of one vector."""
    if kind == "varbit":
        return f"arrow_cast({packed(text)}, 'List(UInt8)')"
    vector = f"vector('{text}')"
    return cast(vector, kind, length) if kind == "halfvec" or length else vector


def array(text, kind, length):
    """A text of an array, `{1,2}` or `{"[1,2]", "[3,4]"}`."""
    if kind in VECTORS:
        return "[" + re.sub('"(.*?)"', lambda match: literal(match[1], kind, length), text[1:-1]) + "]"
    numbers = re.sub("[^{},]+", r"'\g<0>'", text).replace("'NULL'", "NULL")
    return cast(numbers.translate(str.maketrans("{}", "[]")), kind)


def value(match, default):
    """A literal, an array or a call with its casts; a literal without any is of the default type."""
    sql, casts = match[1], re.findall(CAST, match[2])
    if sql.startswith("'"):
        kind, length, is_array = casts.pop(0) if casts else (default, "", "")
        sql = array(sql[1:-1], kind, length) if is_array else literal(sql[1:-1], kind, length)
    for kind, length, is_array in casts:
        sql = cast(sql, kind, length, bool(is_array))
    return sql


def translated(statement, default, gives_vectors):
    """A statement in our words. What it gives is called `result`, and vectors are texts."""
    # SQL has no word for Float16: a query says what the table has.
    created = re.fullmatch(r"CREATE TABLE (\w+) \(val (\w+)\((\d+)\)\)", statement)
    if created:
        return f"CREATE TABLE {created[1]} AS SELECT {cast('NULL', created[2], created[3])} AS val WHERE false"
    # In the place of PostgreSQL's binary format.
    copied = re.match(r"\\copy (\w+) (TO|FROM) 'results/(\w+).bin'", statement)
    if copied:
        table, file = copied[1], f"'{copied[3]}.arrow'"
        return f"COPY {table} TO {file}" if copied[2] == "TO" else f"INSERT INTO {table} SELECT * FROM {file}"
    sql = re.sub(VALUE, lambda match: value(match, default), statement)
    for pattern, ours in NAMES.items():
        sql = re.sub(pattern, ours, sql)
    select = re.fullmatch(r"SELECT (.*?)( FROM .*)?", sql)
    if not select:
        return sql
    given, rest = "val" if select[1] == "*" else select[1], select[2] or ""
    return f"SELECT {f'vector_text({given})' if gives_vectors else given} AS result{rest}"


def run(program, script):
    """The rows of the last statement, and the error."""
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--no-config", "-q", "--threads", "1", "--format", "tsv", "-c", script]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    # Before the result are counts of rows that were put in.
    rows = ["" if row == '""' else row for row in done.stdout.rpartition("result\n")[2].splitlines()]
    return rows, (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else None


def same(theirs, ours):
    if theirs[:1] in ("[", "{"):
        numbers = [[float(number) for number in cell[1:-1].split(",") if number] for cell in (theirs, ours)]
        # As bytes, because 0 is not -0.
        return len({struct.pack(f"{len(one)}f", *one) for one in numbers}) == 1
    if ours[:1] == "[" and set(theirs) <= set("01"):
        return packed(theirs) == json.loads(ours)
    try:
        a, b = float(theirs), float(ours)
    except ValueError:
        return {"true": "t", "false": "f"}.get(ours, ours) == theirs
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6) or (math.isnan(a) and math.isnan(b))


class Statement:
    """A statement of a file, what is expected of it, and what has to run before."""

    def __init__(self, file, theirs, expected, created, before):
        self.file, self.theirs, self.expected, self.before = file, theirs, expected, before
        about = f"{created} {theirs}"
        self.inapplicable, self.differs = (
            next((pattern for pattern in table if re.search(pattern, about)), None)
            for table in (NOT_APPLICABLE, DIFFERENCES)
        )
        default = "varbit" if file == "bit" else "halfvec" if "halfvec" in about else "vector"
        gives_vectors = bool(expected) and expected[0][:1] in ("[", "{")
        self.ours = None if self.inapplicable else translated(theirs, default, gives_vectors)
        self.given, self.error, self.outcome = [], None, "not applicable"

    def run(self, program):
        if self.inapplicable:
            return
        self.given, self.error = run(program, ";\n".join([*self.before, self.ours]))
        # A panic is no answer.
        panics = self.error is not None and "internal error" in self.error
        if self.expected is None or self.error is not None:
            agrees = self.expected is None and self.error is not None and not panics
        else:
            agrees = len(self.expected) in (len(self.given), 0) and all(map(same, self.expected, self.given))
        if agrees:
            self.outcome = "both fail" if self.error else "same"
        else:
            self.outcome = "different" if self.differs and not panics else "unexplained"

    def __str__(self):
        head = f"{self.file}: {self.theirs}\n  {self.outcome}"
        if self.inapplicable:
            return f"{head}: {NOT_APPLICABLE[self.inapplicable]}"
        if self.outcome == "different":
            head = f"{head}: {DIFFERENCES[self.differs]}"
        expected = "an error" if self.expected is None else self.expected
        return f"{head}\n  ours:     {self.ours}\n  expected: {expected}\n  given:    {self.error or self.given}"


def read(folder, file):
    created, before = "", []
    for theirs, expected in statements((folder / "test" / "expected" / f"{file}.out").read_text()):
        if theirs.startswith("CREATE TABLE"):
            created = theirs
        statement = Statement(file, theirs, expected, created, list(before))
        # What gives neither rows nor an error has changed something.
        if expected == [] and not statement.inapplicable:
            before.append(statement.ours)
        yield statement


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pgvector", type=Path)
    parser.add_argument("embedsql", type=Path)
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    every = [one for file in FILES for one in read(options.pgvector, file)]
    program = options.embedsql.resolve()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: one.run(program), every))

    outcomes = ["same", "both fail", "different", "not applicable", "unexplained"]
    print(f"| file | statements | {' | '.join(outcomes)} |\n|---|{'--:|' * (len(outcomes) + 1)}")
    for file in [*FILES, "all"]:
        counts = Counter(one.outcome for one in every if file in (one.file, "all"))
        print(f"| {file} | {counts.total()} | {' | '.join(str(counts[outcome]) for outcome in outcomes)} |")

    wrong = [str(one) for one in every if one.outcome == "unexplained"]
    agree = [one for one in every if one.differs and one.outcome in ("same", "both fail")]
    wrong += [f"{one}\n  does not differ, and is in DIFFERENCES as {one.differs!r}" for one in agree]
    needed = {one.inapplicable or one.differs for one in every}
    wrong += [f"{one!r} is in no statement" for one in [*NOT_APPLICABLE, *DIFFERENCES] if one not in needed]
    for text in [*map(str, every if options.all else []), *wrong]:
        print(f"\n{text}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
