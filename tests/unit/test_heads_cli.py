"""The command line: ``rlkv``, its plugins and errors, and ``rlkv heads``."""

import json
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from transformers import LlamaConfig
from typer.testing import CliRunner, Result

from rlkv.cli import main as cli
from rlkv.heads import HeadsFile, resolve, shipped_heads

PLAIN = {"NO_COLOR": "1", "FORCE_COLOR": None, "_TYPER_FORCE_DISABLE_TERMINAL": "1", "COLUMNS": "100"}
"""No escape codes, even where the environment, such as that of a CI runner, asks for them."""

ROWS_A = "0.9\t0.1\n0.5\t0.1\n0\t0.5\n"
ROWS_B = "0.9\t0.8\n0.1\t0.2\n0.3\t0.7\n"


def rlkv(*arguments: object) -> Result:
    return CliRunner(env=PLAIN).invoke(cli.app, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    """What a refused command prints after ``error: ``; it is one line, and the status 2."""
    result = rlkv(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").rstrip()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with the config of a model of 3 layers and 2 KV heads."""
    folder = tmp_path / "tiny-llama"
    config = LlamaConfig(num_hidden_layers=3, num_key_value_heads=2, num_attention_heads=4, hidden_size=64)
    config.save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path: Path, model: Path) -> tuple[Path, Path]:
    """Two heads files of that model, made by ``rlkv heads import``."""
    made = []
    for name, rows in (("a", ROWS_A), ("b", ROWS_B)):
        tsv, out = tmp_path / f"{name}.tsv", tmp_path / f"{name}.json"
        tsv.write_text(rows)
        result = rlkv("heads", "import", tsv, "--model", model, "--out", out)
        assert result.exit_code == 0, result.output
        made.append(out)
    return made[0], made[1]


def test_import_writes_what_the_tsv_and_the_model_say(files: tuple[Path, Path]) -> None:
    heads = HeadsFile.read(files[0])
    assert heads.gates == ((0.9, 0.1), (0.5, 0.1), (0.0, 0.5))
    assert heads.model.model_id == "tiny-llama"
    assert (heads.model.num_query_heads, heads.model.head_dim, heads.model.model_type) == (4, 16, "llama")
    assert (str(heads.training_window), str(heads.serving_window)) == ("128+256", "16+64")
    assert heads.recommended_sparsity == 0.5
    assert heads.provenance.recipe["imported_from"] == "a.tsv"
    assert heads.provenance.steps is None


@pytest.mark.usefixtures("files")
def test_import_takes_windows_sparsity_and_name(model: Path, tmp_path: Path) -> None:
    tsv, out = tmp_path / "a.tsv", tmp_path / "c.json"
    options = [
        "--train-window",
        "64+128",
        "--serving-window",
        "32+128",
        "--recommended-sparsity",
        "0.4",
        "--model-id",
        "org/m",
    ]
    assert rlkv("heads", "import", tsv, "--model", model, "--out", out, *options).exit_code == 0
    heads = HeadsFile.read(out)
    assert (str(heads.training_window), str(heads.serving_window)) == ("64+128", "32+128")
    assert (heads.recommended_sparsity, heads.model.model_id) == (0.4, "org/m")


@pytest.mark.usefixtures("files")
def test_import_refuses(model: Path, tmp_path: Path) -> None:
    tsv, out = tmp_path / "a.tsv", tmp_path / "c.json"
    command = ["heads", "import", tsv, "--model", model, "--out", out]
    assert (
        refusal(*command, "--recommended-sparsity", "1.5") == "sparsity is 1.5, expected a number in [0, 1]"
    )
    assert refusal(*command, "--serving-window", "16") == (
        "window: found '16', expected SINK+RECENT in tokens, such as 16+64"
    )
    tsv.write_text("0\t1\n0\t1\n")
    assert refusal(*command) == f"{tsv}: gates has 2 rows, expected 3 as in model.num_layers"
    tsv.write_text(ROWS_A)
    assert refusal("heads", "import", tsv, "--model", tmp_path, "--out", out).startswith(
        f"--model {tmp_path}: found no config: "
    )
    assert not out.exists()


def test_show_prints_summary_and_marked_gates(files: tuple[Path, Path]) -> None:
    result = rlkv("heads", "show", files[0])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["model", "tiny-llama", "(llama)"] in lines
    assert ["windows", "trained", "128+256,", "serve", "16+64"] in lines
    assert "mean 0.350" in result.stdout  # 2.1 / 6
    assert ["0", "0.90", "0.10·", "0.50", "1/2"] in lines
    assert ["1", "0.50", "0.10·", "0.30", "1/2"] in lines
    assert ["2", "0.00·", "0.50", "0.25", "1/2"] in lines
    assert ["kv", "0", "██▅▅··"] in lines
    assert ["kv", "1", "····▅▅"] in lines


def test_show_at_another_sparsity_and_into_a_picture(files: tuple[Path, Path], tmp_path: Path) -> None:
    for suffix, magic in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        out = tmp_path / f"heat{suffix}"
        result = rlkv("heads", "show", files[0], "--sparsity", "0", "--out", out)
        assert result.exit_code == 0, result.output
        assert "0.10·" not in result.stdout
        assert out.read_bytes().startswith(magic)
    line = refusal("heads", "show", files[0], "--out", tmp_path / "heat.gif")
    assert line == f"{tmp_path / 'heat.gif'}: suffix is '.gif', expected .png or .svg"


def test_rank_lists_heads_in_order(files: tuple[Path, Path]) -> None:
    result = rlkv("heads", "rank", files[0], "--sparsity", "0.4", "--json")
    answer = json.loads(result.stdout)
    assert answer["num_streaming"] == 2  # 2.4
    assert [(row["layer"], row["head"], row["gate"], row["streaming"]) for row in answer["ranking"]] == [
        (2, 0, 0.0, True),
        (0, 1, 0.1, True),
        (1, 1, 0.1, False),
        (1, 0, 0.5, False),
        (2, 1, 0.5, False),
        (0, 0, 0.9, False),
    ]
    lines = [line.split() for line in rlkv("heads", "rank", files[0]).stdout.splitlines()]
    assert lines[1] == ["0", "2", "0", "0.0000", "streaming"]
    assert lines[6] == ["5", "0", "0", "0.9000", "full"]


def test_compare_counts_shared_full_heads(files: tuple[Path, Path]) -> None:
    # Full at 1/2: a has (0,0) (1,0) (2,1), b has (0,0) (0,1) (2,1): two of three are shared.
    # Chance: 3 * 3 / 6 = 1.5; variance 1.5 * 3 * 3 / (6 * 5) = 0.45, so 0.67.
    lines = [
        line.split() for line in rlkv("heads", "compare", *files, "--sparsity", "0.5").stdout.splitlines()
    ]
    assert ["shared", "2"] in lines
    assert ["chance", "1.5", "±", "0.7", "(+0.7", "standard", "deviations)"] in lines
    assert ["0", "1", "2", "1", "#B"] in lines
    assert ["1", "1", "0", "0", "A·"] in lines
    assert ["2", "1", "1", "1", "·#"] in lines
    assert not any(line[:1] == ["note"] for line in lines)


def test_compare_says_when_ties_decided(files: tuple[Path, Path]) -> None:
    output = rlkv("heads", "compare", *files, "--sparsity", "0.333").stdout
    assert f"{files[0]}: 2 heads tie at the cut" in output
    assert f"{files[1]}: " not in output


def test_show_says_when_ties_decided(files: tuple[Path, Path]) -> None:
    assert "2 heads tie at the cut" in rlkv("heads", "show", files[0], "--sparsity", "0.3").output
    assert "tie" not in rlkv("heads", "show", files[1]).output


def test_compare_refuses_files_of_other_models(files: tuple[Path, Path], tmp_path: Path) -> None:
    data = json.loads(files[1].read_text())
    data["model"]["num_layers"] = 2
    del data["gates"][2]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(data))
    assert refusal("heads", "compare", files[0], other, "--sparsity", "0.5") == (
        f"{other}: model.num_layers is 2, expected 3 as in {files[0]}"
    )


def test_a_heads_file_goes_by_path_or_by_shipped_name(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    for name in ("heads.json", "heads-duo.json"):
        target = models / "small" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files[0].read_bytes())
    monkeypatch.setattr("rlkv.heads.shipped.MODELS_FOLDER", models)
    assert list(shipped_heads()) == ["small-duo", "small"]
    assert resolve("small") == models / "small" / "heads.json"
    assert resolve("small-duo") == models / "small" / "heads-duo.json"
    assert resolve(files[1]) == files[1]
    assert "tiny-llama" in rlkv("heads", "show", "small").stdout
    assert refusal("heads", "show", "smal") == (
        "smal: no such file, nor a heads file shipped with rlkv (small-duo, small)"
    )


def test_help_lists_the_sub_commands_without_loading_them() -> None:
    program = (
        "import sys; from rlkv.cli.main import app\n"
        "try: app(['--help'], prog_name='rlkv')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'rlkv.cli.heads') if name in sys.modules])"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Show, rank, import and compare heads files." in done.stdout
    assert time.monotonic() - begin < 5  # a tenth of it on an idle machine; torch alone is two seconds


def test_an_error_ends_the_process_with_one_line_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rlkv", "heads", "show", str(tmp_path / "x.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'x.json'}: no such file, nor a heads file shipped")
    assert done.stderr.count("\n") == 1


def test_ranking_a_file_does_not_wait_for_torch(files: tuple[Path, Path]) -> None:
    program = (
        "import sys; from rlkv.cli.main import app\n"
        "try: app(['heads', 'rank', sys.argv[1]], prog_name='rlkv')\n"
        "except SystemExit as end: sys.exit(end.code or str([*{'torch', 'transformers'} & {*sys.modules}]))"
    )
    command = [sys.executable, "-c", program, str(files[0])]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stderr == "[]\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = typer.Typer()

    @plugin.command()
    def broken() -> None:
        """Fail."""
        raise KeyError("bug")

    monkeypatch.setattr(sys.modules[__name__], "PLUGIN", plugin, raising=False)
    use_plugins(monkeypatch, broken=f"{__name__}:PLUGIN")
    assert isinstance(rlkv("broken").exception, KeyError)


def use_plugins(monkeypatch: pytest.MonkeyPatch, **targets: str) -> None:
    points = {name: EntryPoint(name, target, cli.PLUGIN_GROUP) for name, target in targets.items()}
    monkeypatch.setattr(cli, "entry_points", lambda group: list(points.values()))
    cli._plugins.cache_clear()
    monkeypatch.setattr(cli, "_plugins", cli._plugins.__wrapped__)


def test_plugins_are_listed_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = typer.Typer()

    @plugin.command()
    def greet(name: str) -> None:
        """Greet somebody."""
        typer.echo(f"hello {name}")

    monkeypatch.setattr(sys.modules[__name__], "PLUGIN", plugin, raising=False)
    use_plugins(
        monkeypatch, greet=f"{__name__}:PLUGIN", lost="no_such_module:app", heads="no_such_module:app"
    )
    assert rlkv("greet", "you").stdout == "hello you\n"
    shown = " ".join(rlkv("--help").stdout.split())
    assert "Greet somebody." in shown
    assert "(cannot be loaded: No module named 'no_such_module')" in shown
    assert rlkv("heads", "--help").exit_code == 0  # a plugin cannot take rlkv's own name
    assert shown.count("Show, rank, import and compare heads files.") == 1


def test_unknown_commands_and_version() -> None:
    assert rlkv("nothing").exit_code == 2
    assert "No such command" in rlkv("nothing").stderr
    assert rlkv("--version").stdout.startswith("rlkv ")


def test_the_public_names_load_on_use() -> None:
    import rlkv as package

    assert package.HeadsFile is HeadsFile
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = package.Nothing
