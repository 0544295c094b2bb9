"""What a run leaves behind: JSON with a checked schema, pictures, and the Markdown table of the README."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Result = dict[str, Any]

MACHINE = ("processor", "isa", "gankernels", "torch", "numpy", "commit", "date", "command", "roofs")
ROW = ("part", "workload", "dtype", "threads", "batch", "ours", "rivals", "best_rival", "ratio", "error", "note")
TIMES = ("median", "low", "high", "fastest", "rounds")
WORST = 8  # layers that the table names
KERNELS = 20  # of a profile that have a line of their own
PARTS = ("step", "generate", "layers", "memory", "growth", "profile")


def check(result: Result) -> None:
    """Raise ValueError unless the result has the schema that the table and the pictures read."""
    missing = [k for k in ("machine", "rows", "skipped", "wrong") if k not in result]
    missing += [f"machine.{k}" for k in MACHINE if k not in result.get("machine", {})]
    if missing:
        raise ValueError(f"benchmark result: {', '.join(missing)} missing")
    for i, row in enumerate(result["rows"]):
        absent = [k for k in ROW if k not in row]
        if absent:
            raise ValueError(f"benchmark result: row {i} lacks {', '.join(absent)}")
        if row["part"] not in PARTS:
            raise ValueError(f"benchmark result: row {i} is of part {row['part']!r}, expected one of {PARTS}")
        for name, times in {"ours": row["ours"], **row["rivals"]}.items():
            if times is not None and set(times) != set(TIMES):
                raise ValueError(f"benchmark result: row {i}, times of {name} are {sorted(times)}, expected {TIMES}")
        if row["best_rival"] is not None and row["best_rival"] not in row["rivals"]:
            raise ValueError(f"benchmark result: row {i} names the rival {row['best_rival']!r}, which has no times")


def write(path: Path, result: Result) -> None:
    """Check and write the JSON."""
    check(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def read(path: Path) -> Result:
    """Read and check the JSON."""
    result: Result = json.loads(path.read_text())
    check(result)
    return result


# ---- text ------------------------------------------------------------------------------------------------------------
def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def line(row: Row) -> str:
    """One measurement on one line, for the terminal."""
    name = row["workload"] if row["part"] != "layers" else f"{row['layer']} ({row['what']}), {row['pass']}"
    head = f"{row['part']:8} {name:14} {row['dtype']:8} {row['threads']} thr  batch {row['batch']:4}  "
    if row["part"] == "memory":
        added = ", ".join(f"{side} {mb:.0f} MB" for side, mb in row["added_mb"].items())
        peak = ", ".join(f"{side} {m['peak_mb']:.0f} MB" for side, m in row["memory"].items())
        return f"{head}a step adds {added}; peak of the process: {peak}"
    if row["part"] == "growth":
        per = f"{row['ns_per_cell']:.0f} ns/cell" if "ns_per_cell" in row else f"{row['us_per_event']:.0f} us/event"
        cells = f", {round(row['cells'] ** (1 / 3))}^3" if "cells" in row else ""
        return f"{head}{row['what']}{cells}: {duration(row['ours']['median'])}, {per}"
    if row["part"] == "profile":
        return f"{head}{duration(row['step_s'])}\n{profile_lines(row)}"
    text = head
    if row["ours"] is None:
        text += row["note"]
    else:
        spread = (row["ours"]["high"] - row["ours"]["low"]) / row["ours"]["median"]
        text += f"{duration(row['ours']['median'])} +-{50 * spread:.0f} %"
        text += f" ({row['gflops']:.0f} GFLOP/s, {row['percent_of_roof']:.0f} % of roof)" if row["gflops"] else ""
    shown = sorted(row["rivals"].items(), key=lambda item: item[1]["median"])
    text += " | " + ", ".join(f"{k} {duration(t['median'])}" for k, t in shown)
    if row["ratio"] is not None:
        text += f" | {row['ratio']:.2f}x" + ("  SLOWER" if row["ratio"] < 1 else "")
    if "ours_float32" in row:
        text += f" (ours in float32 {duration(row['ours_float32']['median'])})"
    if "compile_s" in row:
        text += " | compiled in " + ", ".join(f"{k} {duration(s)}" for k, s in row["compile_s"].items())
    if row.get("coarser"):
        text += f" | coarser: {_coarser(row)}"
    if "unfused" in row:
        text += f" (unfused {duration(row['unfused']['median'])})"
    return text


def profile_lines(row: Row) -> str:
    """The kernels of a step that take longest, one on each line."""
    shown, rest = row["kernels"][:KERNELS], row["kernels"][KERNELS:]
    out = [f"{'% of step':>10} {'ms':>9} {'calls':>6} {'% of roof':>10}  kernel and shapes"]
    out += [
        f"{k['percent']:10.1f} {k['seconds'] * 1e3:9.2f} {k['calls']:6} {k['percent_of_roof']:10.0f}  {k['kernel']}"
        for k in shown
    ]
    left, outside = sum(k["seconds"] for k in rest), row["outside_s"]
    for label, part in ((f"{len(rest)} others", left), ("outside of kernels (Python, arrays)", outside)):
        out.append(f"{100.0 * part / row['step_s']:10.1f} {part * 1e3:9.2f} {'':17}  {label}")
    return "\n".join(out)


def _coarser(row: Row) -> str:
    shown = sorted(row["coarser"].items(), key=lambda item: item[1]["median"])
    return ", ".join(f"{k} {duration(t['median'])}" for k, t in shown)


def largest(rows: Iterable[Row], part: str, workload: str, dtype: str) -> Row | None:
    """The measurement with most threads and then the largest batch."""
    found = [r for r in rows if (r["part"], r["workload"], r["dtype"]) == (part, workload, dtype) and r["rivals"]]
    return max(found, key=lambda r: (r["threads"], r["batch"]), default=None)


def against_bf16(rows: list[Row], workload: str) -> Row | None:
    """Our step at its best, in bfloat16 or float32, over the rival's in bfloat16; all of one race."""
    half = largest(rows, "step", workload, "bfloat16")
    if half is None:
        return None
    single = half.get("ours_float32")
    if single is None or (half["ours"] and half["ours"]["median"] <= single["median"]):
        return half
    ratio = half["rivals"][half["best_rival"]]["median"] / single["median"]
    return half | {"ours": single, "ratio": ratio, "our_dtype": "float32"}


def _cell(row: Row | None) -> str:
    if row is None:
        return "not measured"
    rival = f"{duration(row['rivals'][row['best_rival']]['median'])} {row['best_rival']}"
    if row["ours"] is None:
        return f"- / {rival}"
    ours = duration(row["ours"]["median"]) + (" in float32" if row.get("our_dtype") == "float32" else "")
    return f"{ours} / {rival} (**{row['ratio']:.2f}**)"


def table(result: Result) -> str:
    """Markdown: a line for each workload; ours / best rival (ratio; above 1 ours is faster)."""
    rows, m = result["rows"], result["machine"]
    columns: list[tuple[str, Callable[[str], Row | None]]] = [
        ("training step, float32", lambda w: largest(rows, "step", w, "float32")),
        ("training step, rival in bfloat16", lambda w: against_bf16(rows, w)),
        ("generation, float32", lambda w: largest(rows, "generate", w, "float32")),
        ("generation of one event", lambda w: _single(rows, w)),
    ]
    out = [
        "| workload | batch: step, generation | " + " | ".join(name for name, _ in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for workload in dict.fromkeys(r["workload"] for r in rows if r["part"] in ("step", "generate")):
        step, made = (largest(rows, part, workload, "float32") for part in ("step", "generate"))
        batches = ", ".join("-" if r is None else str(r["batch"]) for r in (step, made))
        out.append(f"| {workload} | {batches} | " + " | ".join(_cell(find(workload)) for _, find in columns) + " |")
    added = [r for r in rows if r["part"] == "memory"]
    if added:
        parts = [
            f"{r['workload']} (batch {r['batch']}) "
            + " / ".join(f"{r['added_mb'][s]:.0f}" for s in sorted(r["added_mb"], key=lambda s: s != "ours"))
            for r in added
        ]
        out += ["", f"Memory that a step adds, MB, ours / PyTorch: {'; '.join(parts)}."]
    slower = [r for r in rows if r["ratio"] is not None and r["ratio"] < 1 and r["part"] in ("step", "generate")]
    if slower:
        named = [f"{r['part']} of {r['workload']} at batch {r['batch']}, {r['threads']} thread(s), {r['dtype']} "
                 f"({r['ratio']:.2f})" for r in slower]  # fmt: skip
        out += ["", f"Slower than the best rival: {'; '.join(named)}."]
    bad = sorted((r for r in rows if r["part"] == "layers" and r["ratio"] is not None and r["ratio"] < 1),
                 key=lambda r: float(r["ratio"]))  # fmt: skip
    if bad:
        named = [f"{r['workload']} {r['layer']} ({r['what']}) {r['pass']} {r['ratio']:.2f}" for r in bad[:WORST]]
        passes = sum(r["part"] == "layers" and r["ratio"] is not None for r in rows)
        out += ["", f"Passes of layers that are slower: {len(bad)} of {passes}; the worst: {'; '.join(named)}."]
    late = [r for r in rows if "compile_s" in r and r["part"] != "layers"]
    if late:
        named = [f"{r['part']} of {r['workload']} at batch {r['batch']} " +
                 " / ".join(f"{k} {duration(s)}" for k, s in r["compile_s"].items()) for r in late]  # fmt: skip
        out += ["", f"Compilation in the first call, apart from the times above: {'; '.join(named)}."]
    coarse = [r for r in rows if r.get("coarser") and r["part"] != "layers"]
    if coarse:
        named = [f"{r['part']} of {r['workload']} at batch {r['batch']}: {_coarser(r)}" for r in coarse]
        out += ["", f"With coarser products, apart from the ratios above: {'; '.join(named)}."]
    threads = max((r["threads"] for r in rows), default=1)
    roof = m["roofs"].get(str(threads), {})
    roofs = f", roof {roof['float32_gflops']:.0f} GFLOP/s, {roof['copy_gb_per_s']:.0f} GB/s" if roof else ""
    out += [
        "",
        f"{m['processor']} ({m['isa']}), {threads} threads{roofs}; PyTorch {m['torch']}, ONNX Runtime "
        f"{m.get('onnxruntime', 'not installed')}; {m['date']}, commit {m['commit']}: `{m['command']}`.",
    ]
    return "\n".join(out)


def _single(rows: list[Row], workload: str) -> Row | None:
    return largest([r for r in rows if r["batch"] == 1], "generate", workload, "float32")


# ---- pictures --------------------------------------------------------------------------------------------------------
def picture(result: Result, path: Path) -> None:
    """A bar for each workload: ratio over the best rival of training steps and generation."""
    from matplotlib.figure import Figure

    rows, m = result["rows"], result["machine"]
    panels: list[tuple[str, Callable[[str], Row | None]]] = [
        ("training step, float32", lambda w: largest(rows, "step", w, "float32")),
        ("training step, rival in bfloat16", lambda w: against_bf16(rows, w)),
        ("generation, float32", lambda w: largest(rows, "generate", w, "float32")),
        ("generation of one event, float32", lambda w: _single(rows, w)),
    ]
    workloads = list(dict.fromkeys(r["workload"] for r in rows if r["part"] in ("step", "generate")))
    shown = [
        (title, [(w, r) for w in workloads if (r := find(w)) is not None and r["ratio"]]) for title, find in panels
    ]
    shown = [(title, bars) for title, bars in shown if bars]
    figure = Figure((9.0, 1.3 + sum(0.55 + 0.42 * len(bars) for _, bars in shown)), layout="constrained")
    axes = figure.subplots(
        len(shown), 1, sharex=True, squeeze=False, height_ratios=[len(bars) + 0.6 for _, bars in shown]
    )[:, 0]
    widest = max((r["ratio"] for _, bars in shown for _, r in bars), default=1.0)
    narrowest = min((r["ratio"] for _, bars in shown for _, r in bars), default=1.0)
    for ax, (title, bars) in zip(axes, shown, strict=True):
        ratios = [r["ratio"] for _, r in bars]
        ax.barh(range(len(bars)), [v - 1.0 for v in ratios], left=1.0, height=0.62,
                color=["#2a7f62" if v >= 1 else "#b5483a" for v in ratios])  # fmt: skip
        for i, (_, r) in enumerate(bars):
            ax.text(
                max(r["ratio"], 1.0) * 1.03, i, f"{r['ratio']:.2g}x  over {r['best_rival']}", va="center", fontsize=9
            )
        ax.set_yticks(range(len(bars)), [f"{w}, batch {r['batch']}" for w, r in bars], fontsize=9)
        ax.invert_yaxis()
        ax.axvline(1.0, color="black", linewidth=0.8)
        ax.set_title(title, loc="left", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    if len(axes):
        axes[-1].set_xscale("log")
        axes[-1].set_xlim(min(0.7, narrowest * 0.8), max(2.0, widest) * 3.5)
        ticks = [
            v for v in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if min(0.7, narrowest * 0.8) <= v <= max(2.0, widest) * 3.5
        ]
        axes[-1].set_xticks(ticks, [f"{v:g}" for v in ticks])
        axes[-1].minorticks_off()
        axes[-1].set_xlabel("times as fast as the best rival of the same run (PyTorch, ONNX Runtime)")
    figure.suptitle(
        f"gankernels {m['gankernels']} ({m['commit']}), {max((r['threads'] for r in rows), default=1)} threads: "
        f"{m['processor']}, {m['date']}",
        fontsize=9,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def growth_picture(result: Result, path: Path) -> None:
    """Cost per event over the batch, and per cell over the volume; level is linear."""
    from matplotlib.figure import Figure

    rows = [r for r in result["rows"] if r["part"] == "growth"]
    panels = (("generate", "batch", "us_per_event", "generation: us per event"),
              ("step", "batch", "us_per_event", "training step: us per event"),
              ("volume", "cells", "ns_per_cell", "discriminator, gradients: ns per cell"))  # fmt: skip
    figure = Figure((10.0, 3.2), layout="constrained")
    for ax, (what, x, y, title) in zip(figure.subplots(1, 3), panels, strict=True):
        points = [(r[x], r[y]) for r in rows if r["what"] == what]
        ax.plot([p[0] for p in points], [p[1] for p in points], "o-", color="#2a7f62")
        ax.set_ylim(0, 1.35 * max((p[1] for p in points), default=1.0))
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("cells n^3" if what == "volume" else "batch")
        if points:
            labels = [f"{round(p[0] ** (1 / 3))}^3" if what == "volume" else str(p[0]) for p in points]
            ax.set_xscale("log")
            ax.set_xticks([p[0] for p in points], labels, fontsize=8)
            ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
