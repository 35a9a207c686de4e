"""Writes the tables of README.md and docs/ anew from the records they show: `python docs/tables.py [--check]`.

A table stands between `<!-- results NAME -->` (the record zoo/records/NAME.json), `<!-- tuning NAME -->`
(zoo/records/tuning/NAME.json) or `<!-- study SET LOSS -->` (benchmarks/records/das_study.json) and `<!-- end -->`.
"""

import importlib.util
import json
import pathlib
import re
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- (results|tuning|study) ([^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(kind: str, names: list[str]) -> str:
    """The Markdown of one table."""
    sys.path.insert(0, str(ROOT))
    from zoo import tables, tune

    if kind == "study":
        return _study().tables(_read("benchmarks/records/das_study.json"), *names)
    if kind == "tuning":
        return tune.table(_read(f"zoo/records/tuning/{names[0]}.json")["arms"])
    record = _read(f"zoo/records/{names[0]}.json")
    arms = record["arms"]
    rows: dict[str, Any] = {
        name: {metric: [value] for metric, value in found.items()} for name, found in record["rivals"].items()
    }
    rows["untrained"] = next(iter(arms.values()))["untrained"]
    for arm, found in arms.items():
        rows[arm] = {name: values for name, values in found["last"].items() if name != "epoch"}
    return tables.metrics_table(rows)


def _read(name: str) -> Any:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def _study() -> Any:
    path = ROOT / "benchmarks" / "das_study.py"
    spec = importlib.util.spec_from_file_location("das_study", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["das_study"] = module
    spec.loader.exec_module(module)
    return module


def renewed(text: str) -> str:
    """A document with its tables as the records have them."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{table(found[2], found[3].split())}\n\n{found[4]}", text)


def main() -> int:
    """The command; with --check it writes nothing, and fails where a table differs."""
    check, stale = "--check" in sys.argv[1:], []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        new = renewed(text)
        if new != text:
            stale.append(path.name)
            if not check:
                path.write_text(new, encoding="utf-8")
    print(f"{'differ' if check else 'written'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
