"""Write the pages that follow from the code: settings, artifacts, commands, Python API. `make reference` runs it."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pyarrow as pa
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import llm_edt
from data_lake.schemas import ARTIFACTS, VECTOR, Artifact, describe
from data_lake.settings_errors import NAME
from flows.cli import app
from flows.settings import PROMPTS, Settings
from flows.stages import SPECS
from pipeline.ingest.formats import BY_COLUMNS, FORMATS
from pipeline.llm.backends import BACKENDS, NONE

FOLDER = Path(__file__).resolve().parent
PROMPT_FILES = "pipeline/llm/prompts"

CHOICES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("data", "format"): (BY_COLUMNS, *FORMATS),
    ("enrich", "generator"): (NONE, *BACKENDS),
    ("describe", "generator"): (NONE, "vllm", "openai"),
}
"""What a setting may be that names a line of a table."""

NUMBERS = {"gt": "above {}", "ge": "{} or more", "lt": "below {}", "le": "at most {}"}
"""How the bounds of a number are told."""


def pages() -> dict[str, str]:
    """Return the text of each generated page by the name of its file."""
    return {
        "settings.md": settings_page(),
        "artifacts.md": artifacts_page(),
        "commands.md": commands_page(),
        "python-api.md": python_page(),
    }


def settings_page() -> str:
    """Return a table of settings for each section of `edt.toml`."""
    parts = [
        """# Settings

One TOML file, by default `edt.toml`, says everything; `edt init` and `edt sample` write one with comments. Every
setting but the names of the dataset and of the files has a default. A path starts at the folder of the file. `--set
section.key=value` sets one for a call, as `--set train.seed=1`. A key that does not exist is an error that names
the nearest one, and an old name of a setting goes on working and warns.

What changes the result of a stage makes it stale, and the next run makes it again; `edt plan` says which and why.
Seeds, sizes and prompts do; devices, batch sizes of evaluation, `rows_per_shard`, `threads` and the limits
`max_failed`, `max_useless`, `max_alike`, `max_run_requests` and `max_run_tokens` do not.

This page is generated from the classes that read the file.
"""
    ]
    for path, kind in sections(Settings):
        title = f"`[{'.'.join(path)}]`" if path else "Above the first section"
        rows = [
            f"| `{name}` | {kind_of(path, name, field)} | {default_of(path, name, field)} | {text} |"
            for name, field, text in settings_of(kind)
        ]
        about = [flat(inspect.cleandoc(kind.__doc__ or "")), ""] if path else []
        head = [f"## {title}", "", *about, "| setting | type | default | what it is |", "|---|---|---|---|"]
        parts.append("\n".join([*head, *rows, ""]))
    return "\n".join(parts)


def sections(kind: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Yield each section's path and class, the outermost first."""
    yield path, kind
    for name, field in kind.model_fields.items():
        if inner := section_of(field.annotation):
            free = get_origin(field.annotation) is dict
            yield from sections(inner, (*path, name, NAME) if free else (*path, name))


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the class of a setting that is a section."""
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for found in map(section_of, get_args(annotation)) if found), None)


def settings_of(kind: type[BaseModel]) -> Iterator[tuple[str, FieldInfo, str]]:
    """Yield name, field and description of each setting that is no section."""
    texts = descriptions(kind)
    for name, field in kind.model_fields.items():
        if section_of(field.annotation) is None:
            yield name, field, flat(texts.get(name, "")).replace("|", "\\|")


def descriptions(kind: type[BaseModel]) -> dict[str, str]:
    """Return the text under each field of a class and of those that it extends."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if not issubclass(each, BaseModel) or each is BaseModel:
            continue
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(tree, ast.ClassDef)
        for line, after in zip(tree.body, tree.body[1:], strict=False):
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[line.target.id] = inspect.cleandoc(str(after.value.value))
    return found


def kind_of(path: tuple[str, ...], name: str, field: FieldInfo) -> str:
    """Say what a setting may be."""
    known = CHOICES.get((*path, name))
    return words(Literal[known] if known else field.annotation, field.metadata)


def words(annotation: Any, metadata: Any = ()) -> str:
    """Say in words what values a type has."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "unset"
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in inner)
    if hasattr(annotation, "__metadata__"):  # Annotated
        return words(inner[0], [*inner[1:], *metadata])
    if origin is tuple and inner[-1] is ...:
        return f"list of {plural(words(inner[0]))}"
    if origin is tuple:
        return f"pair of {plural(words(inner[0]))}"
    if origin is dict:
        return "table"
    if inner:  # a union
        return " or ".join(dict.fromkeys(words(each, metadata) for each in inner))
    bounds = [
        text.format(f"{getattr(each, name):g}")
        for each in flattened(metadata)
        for name, text in NUMBERS.items()
        if getattr(each, name, None) is not None
    ]
    known = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
    name = known.get(annotation, getattr(annotation, "__name__", str(annotation)))
    told = ", ".join([name, *dict.fromkeys(bounds)])
    return told.replace("whole number, above 0", "whole number, 1 or more")


def plural(name: str) -> str:
    return re.sub(r"^(text|path|number|pair)", r"\1s", name)


def flattened(metadata: Any) -> Iterator[Any]:
    for each in metadata:
        yield from flattened(each.metadata) if isinstance(each, FieldInfo) else [each]


def default_of(path: tuple[str, ...], name: str, field: FieldInfo) -> str:
    """Return a setting's default as it would stand in the file."""
    if field.is_required():
        return "none: set it"
    value = field.get_default(call_default_factory=True)
    if (*path[:1], name) in PROMPTS and isinstance(value, str):
        [file] = [each for each in prompt_files() if each.read_text(encoding="utf-8") == value]
        return f"`{PROMPT_FILES}/{file.name}`"
    if value is None:
        return "unset"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def prompt_files() -> list[Path]:
    return sorted((FOLDER.parent / PROMPT_FILES).glob("*.md"))


def artifacts_page() -> str:
    """Return a table of stages, and one of columns for each artifact."""
    parts = [
        """# Artifacts and columns

Every stage leaves Parquet files that anything can open, under `data_lake/store/<dataset>/<artifact>/<fingerprint>/`
beside `edt.toml`; `[lake] root` moves it, also to an object store. `current` names the folder that counts.
`manifest.json` beside the data holds inputs, settings, versions, seconds, tokens and figures ([reasons and
figures](reasons.md)). Each column's description is part of the files, as metadata of its Arrow field; `edt show
ARTIFACT` shows rows.

This page is generated from the schemas that every write and read is checked against.

## Stages

| stage | makes | when |
|---|---|---|"""
    ]
    for spec in SPECS:
        made = ", ".join(f"[`{name}`](#{anchor(name)})" for name in spec.makes)
        on = "`[describe] generator` is set" if spec.describes else "enrichment is on" if spec.enriches else "always"
        parts.append(f"| `{spec.name}` | {made} | {on}{', asks the generator' if spec.asks else ''} |")
    for artifact in ARTIFACTS.values():
        parts.append(f"\n## `{artifact.name}`\n")
        parts.extend(table_of(artifact, name) for name in artifact.tables)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def table_of(artifact: Artifact, name: str) -> str:
    """Return the columns of a table of an artifact."""
    key = artifact.key.get(name, ())
    row = f"One row is {artifact.rows[name]}."
    unique = f" Unique: {', '.join(f'`{column}`' for column in key)}." if key else ""
    head = [f"### `{artifact.name}/{name}`\n"] if name else []
    head += [f"{row}{unique}\n", "| column | type | what it holds |", "|---|---|---|"]
    rows = [f"| `{column.name}` | {type_of(column.type)} | {describe(column)} |" for column in artifact.tables[name]]
    return "\n".join([*head, *rows, ""])


def type_of(kind: pa.DataType) -> str:
    """Say what an Arrow type is, without its nullability."""
    if kind == VECTOR:
        return "vector of float32"
    if pa.types.is_list(kind):
        return f"list of {type_of(kind.value_type)}"
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind).replace("[ms, tz=UTC]", " (ms, UTC)"))


def commands_page() -> str:
    """Return what `edt COMMAND --help` says of every command."""
    group: Any = typer.main.get_command(app)
    parts = [
        """# Commands

`--help` after a command says the same. Results go to standard output, progress and errors to standard error. Exit
codes: 0 done, 1 failed, 2 misused, 130 stopped by Ctrl-C. `--json`, where there is it, is for scripts.

| command | what it does |
|---|---|"""
    ]
    commands: dict[str, Any] = group.commands
    parts += [f"| [`edt {name}`](#{anchor('edt ' + name)}) | {first_line(each)} |" for name, each in commands.items()]
    parts.append(
        """
What a run makes is chosen alike by `edt plan` and `edt run`. `--only S` makes S from the current inputs and stops.
`--rerun S` rebuilds S, and then whatever its new content makes stale. `--from S` rebuilds S and all that follows;
what is current stays so until its replacement is published. `--full` rebuilds every stage. `--to S` stops after S,
also with `--from`, `--rerun` or `--full`. Replies that the lake holds are used again in all of these; `--ask-again`
asks once more.
"""
    )
    for name, command in commands.items():
        names = [each.name.upper() if each.required else f"[{each.name.upper()}]" for each in arguments_of(command)]
        parts.append(f"## `edt {name}`\n\n{flat(command.help or '', paragraphs=True)}\n")
        parts.append(f"`edt {name} {' '.join(names)}`\n" if names else "")
        parts.append("| option | what it is | default |\n|---|---|---|")
        parts += [option_row(each) for each in command.params if each not in arguments_of(command)]
        parts.append("")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def arguments_of(command: Any) -> list[Any]:
    return [each for each in command.params if each.param_type_name == "argument"]


def option_row(option: Any) -> str:
    """Return a row about an option."""
    takes = "" if option.is_flag else f" {option.metavar or option.name.strip('_').upper()}"
    default = "" if option.default in (None, False, ()) else f"`{option.default}`"
    needed = " Needed." if option.required else ""
    names = ", ".join(f"`{name}{takes}`" for name in option.opts)
    return f"| {names} | {(option.help or '').replace('|', chr(92) + '|')}{needed} | {default} |"


def first_line(command: Any) -> str:
    return flat((command.help or "").split("\n\n")[0])


def python_page() -> str:
    """Return what `llm_edt` offers, by its docstrings."""
    about, _, example = inspect.cleandoc(llm_edt.__doc__ or "").partition("\n\n")
    parts = [
        "# Python API\n",
        f"{about}\n",
        f"```python\nimport llm_edt\n\n{example}\n```\n",
        "`edt export` writes the folder that `load` reads; `open_lake` reads the dataset of a settings file. The",
        "package is typed, and raises `llm_edt.UserError` for what you can fix. This page comes from its docstrings.\n",
    ]
    for name in llm_edt.__all__:
        thing = getattr(llm_edt, name)
        if inspect.isclass(thing) and thing.__module__ == llm_edt.__name__:
            parts.append(f"## `{name}`\n\n{inspect.getdoc(thing)}\n")
            parts += [member(name, each, value) for each, value in vars(thing).items() if not each.startswith("_")]
        elif inspect.isfunction(thing):
            parts.append(f"## `{name}{signature(thing)}`\n\n{inspect.getdoc(thing)}\n")
    return "\n".join(parts).rstrip() + "\n"


def member(owner: str, name: str, value: Any) -> str:
    """Return a section about a method or a property."""
    shown = name if isinstance(value, property) else f"{name}{signature(value)}"
    return f"### `{owner}.{shown}`\n\n{inspect.getdoc(value)}\n"


def signature(function: Any) -> str:
    """Return a function's parameters without `self`, with short names of types."""
    found = inspect.signature(function)
    kept = [each for each in found.parameters.values() if each.name != "self"]
    told = re.sub(r"(-> |: )'([^']*)'", r"\1\2", str(found.replace(parameters=kept)))
    return re.sub(r"\b(?:typing|pathlib|collections\.abc|pl|llm_edt)\.", "", told)


def anchor(title: str) -> str:
    """Return the fragment under which a heading is linked."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def flat(text: str, paragraphs: bool = False) -> str:
    """Return a text with its lines joined, and its paragraphs kept apart where that is asked for."""
    return ("\n\n" if paragraphs else " ").join(" ".join(part.split()) for part in text.split("\n\n"))


if __name__ == "__main__":
    for file, page in pages().items():
        (FOLDER / file).write_text(page, encoding="utf-8")
