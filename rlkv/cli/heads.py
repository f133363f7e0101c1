"""``rlkv heads``: show, rank, import and compare heads files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlkv.errors import ConfigError
from rlkv.window import PAPER_SERVE_WINDOW, PAPER_TRAIN_WINDOW, Window

if TYPE_CHECKING:
    from rlkv.heads import HeadsFile, Provenance

app = typer.Typer(
    help="Show, rank, import and compare heads files.", no_args_is_help=True, add_completion=False
)

HeadsArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="Path of a heads file, or the name of one shipped with rlkv.")
]
SparsityOption = Annotated[
    float | None,
    typer.Option(help="Fraction of KV heads that stream.", show_default="the file's recommended sparsity"),
]


@app.command()
def show(
    file: HeadsArgument,
    sparsity: SparsityOption = None,
    out: Annotated[Path | None, typer.Option(help="Also draw the gates into this .png or .svg file.")] = None,
) -> None:
    """Print what a heads file holds: summary, heat map and the gate of every head."""
    from rlkv.cli import heads_view
    from rlkv.heads import heat_map, streaming_mask, tied_at_cut

    heads = _read(file)
    sparsity = heads.recommended_sparsity if sparsity is None else sparsity
    streaming = streaming_mask(heads.gates, sparsity)
    if out is not None:
        heat_map(heads.gates, out, title=heads.model.model_id, streaming=streaming)
    heads_view.print_file(heads, sparsity, streaming.tolist())
    heads_view.print_ties(str(file), tied_at_cut(heads.gates, sparsity))


@app.command()
def rank(
    file: HeadsArgument,
    sparsity: SparsityOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List all heads, the lowest gate first, and which of them stream at a sparsity."""
    from rlkv.cli import heads_view
    from rlkv.heads import num_streaming, ranking

    heads = _read(file)
    sparsity = heads.recommended_sparsity if sparsity is None else sparsity
    order = ranking(heads.gates)
    cut = num_streaming(sparsity, len(order))
    rows = [
        {"layer": layer, "head": head, "gate": heads.gates[layer][head], "streaming": place < cut}
        for place, (layer, head) in enumerate(order)
    ]
    if as_json:
        typer.echo(json.dumps({"sparsity": sparsity, "num_streaming": cut, "ranking": rows}))
    else:
        heads_view.print_ranking(rows)


@app.command("import")
def import_tsv(
    tsv: Annotated[
        Path, typer.Argument(help="adapter_weights.tsv or full_attention_heads.tsv: a row per layer.")
    ],
    *,
    model: Annotated[str, typer.Option(help="Model on the hub, or a folder with its config.json.")],
    out: Annotated[Path, typer.Option(help="Heads file to write.")],
    model_id: Annotated[
        str | None, typer.Option(help="Name of the model in the file.", show_default="from --model")
    ] = None,
    train_window: Annotated[
        str, typer.Option(metavar="S+W", help="Window that the gates were trained with.")
    ] = str(PAPER_TRAIN_WINDOW),
    serving_window: Annotated[str, typer.Option(metavar="S+W", help="Recommended to servers.")] = str(
        PAPER_SERVE_WINDOW
    ),
    recommended_sparsity: Annotated[
        float, typer.Option(help="Recommended fraction of KV heads that stream.")
    ] = 0.5,
) -> None:
    """Turn a published TSV of gates into a heads file."""
    from rlkv.heads import HeadsFile, ModelShape, num_streaming, package_versions, read_tsv
    from rlkv.heads.fields import check_gates, within
    from rlkv.model_size import model_config

    windows = Window.parse(train_window), Window.parse(serving_window)
    num_streaming(recommended_sparsity, num_heads=1)  # refuses a bad sparsity before transformers loads
    gates = read_tsv(tsv)
    # A local folder's path means nothing elsewhere; its name may.
    name = model_id or (Path(model).resolve().name if Path(model).is_dir() else model)
    shape = ModelShape.from_config(model_config(model), model_id=name)
    with within(f"{tsv}: "):
        gates = check_gates(gates, shape.num_layers, shape.num_kv_heads)
    heads = HeadsFile(
        model=shape,
        gates=gates,
        training_window=windows[0],
        serving_window=windows[1],
        recommended_sparsity=recommended_sparsity,
        provenance=_import_provenance(tsv, package_versions("rlkv", "transformers")),
    )
    heads.write(out)
    typer.echo(f"{out}: {shape.num_layers} layers x {shape.num_kv_heads} KV heads of {shape.model_id}")


@app.command()
def compare(
    file_a: Annotated[str, typer.Argument(metavar="A", help="Path or shipped name of a heads file.")],
    file_b: Annotated[str, typer.Argument(metavar="B", help="Path or shipped name of another.")],
    sparsity: Annotated[float, typer.Option(help="Fraction of KV heads that stream in both.")],
) -> None:
    """Count the full heads that two files share, and what chance would give."""
    from rlkv.cli import heads_view
    from rlkv.heads import overlap, streaming_mask, tied_at_cut

    a, b = _read(file_a), _read(file_b)
    for field in ("num_layers", "num_kv_heads"):
        found, expected = getattr(b.model, field), getattr(a.model, field)
        if found != expected:
            raise ConfigError(f"{file_b}: model.{field} is {found}, expected {expected} as in {file_a}")
    mask_a, mask_b = streaming_mask(a.gates, sparsity), streaming_mask(b.gates, sparsity)
    heads_view.print_overlap((file_a, file_b), overlap(mask_a, mask_b), sparsity)
    for name, heads in ((file_a, a), (file_b, b)):
        heads_view.print_ties(name, tied_at_cut(heads.gates, sparsity))
    heads_view.print_layers(mask_a.tolist(), mask_b.tolist())


def _read(name_or_path: str) -> HeadsFile:
    from rlkv.heads import HeadsFile, resolve

    return HeadsFile.read(resolve(name_or_path))


def _import_provenance(tsv: Path, packages: dict[str, str]) -> Provenance:
    """What is known of gates that were trained elsewhere: the file they came in."""
    from rlkv.heads import Provenance

    digest = hashlib.sha256(tsv.read_bytes()).hexdigest()
    recipe = {"imported_from": tsv.name, "sha256": digest}
    return Provenance(recipe=recipe, data="unknown", steps=None, seed=None, packages=packages)
