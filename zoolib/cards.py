"""Generated Markdown: dataset cards and hub cards from the manifests, and the tables of methods, datasets and hubs."""

from __future__ import annotations

from collections.abc import Sequence

from zoolib import markdown, origins
from zoolib.data import embedded, manifests
from zoolib.data.schema import DatasetManifest, HubManifest, MemberManifest, Variant
from zoolib.methods import METHODS
from zoolib.spec import ZoolibError


def dataset_card(manifest: DatasetManifest) -> str:
    """One dataset's page: what it is, how to get it, its licence and citation, and every known set of files."""
    licence = _stated(f"dataset {manifest.name!r}", manifest.licence)
    installed = manifest.source == "embedded"
    facts: dict[str, object] = {
        "name": f"`{manifest.name}`",
        "task": "image classification" if manifest.task == "cls" else "facial landmarks",
        **_what(manifest),
        "images": f"{markdown.number(manifest.sizes.train)} train, {markdown.number(manifest.sizes.test)} test",
        "published validation images": markdown.number(manifest.sizes.val) if manifest.sizes.val else "",
        "source": "embedded: comes with the installed packages"
        if installed
        else "canonical: Parquet files on your disk",
        "licence": licence,
        "home page": markdown.link(manifest.homepage),
        "papers' column": f"`{manifest.paper_column}`" if manifest.paper_column else "none: not in the papers",
        "classes of": _dataset_link(manifest.of),
        "shares no image with": _dataset_link(manifest.apart_from),
    }
    facts |= {f"SHA-256, {split}": f"`{digest}`" for split, digest in manifest.sha256.items()}
    parts = [f"# {manifest.title}\n", manifest.description + "\n", markdown.facts(facts)]
    parts += _pictures(manifest.name) if installed else ["<!-- sample sheet -->\n"]
    parts += ["## Protocol\n", manifest.protocol + "\n", "## How to get it\n", _how_to_get(manifest)]
    if manifest.classes:
        parts += ["## Classes\n", ", ".join(f"`{name}`" for name in manifest.classes) + "\n"]
    if manifest.name in embedded.FAMILIES:
        parts += ["## Labels\n", _labels(manifest.name)]
    parts += origins.sources(manifest) + origins.differences(manifest)
    if manifest.variants:
        parts.append("## Known files\n")
        parts.append("A run recognises its files by their checksums and records the variant beside every number.\n")
        parts += [_variant(variant) for variant in manifest.variants]
    parts += ["## Citation\n", manifest.citation + "\n"]
    return "\n".join(parts)


def _dataset_link(name: str | None) -> str:
    return f"[`{name}`]({name}.md)" if name else ""


def _pictures(name: str) -> list[str]:
    """The sheets of a dataset as figures of a page in the same folder."""
    from zoolib import sheets  # loads matplotlib

    return [
        f"```{{figure}} {name}-{kind}.jpg\n:alt: {sheet.alt}\n\n{sheet.caption}\n```\n"
        for kind, sheet in sheets.SHEETS[name].items()
    ]


def _labels(name: str) -> str:
    """What every scene of a rendered dataset is labelled with."""
    family = embedded.FAMILIES[name]
    objects = "one object" if family.objects == 1 else f"up to {family.objects} objects"
    rows = [
        ("class", "; ".join(family.classes)),
        ("fine class", "the class itself" if family.fine_classes == family.classes else "; ".join(family.fine_classes)),
        ("objects", f"{objects}, with mask, box and four keypoints, of the kinds {'; '.join(family.object_classes)}"),
    ]
    intro = f'`embedded.described("{name}", split)` returns the scenes, and [the renderer](rendered.md) their labels.\n'
    return intro + "\n" + markdown.table(("label", "values"), rows)


def _mirrored(manifest: DatasetManifest) -> str:
    if manifest.landmarks:
        return "stay faces, pairs of points change places: flips are used" if manifest.flip else "no flips"
    return "keep their class: flips are used" if manifest.flip else "change their class: no flips"


def _what(manifest: DatasetManifest) -> dict[str, object]:
    """What an image is labelled with, and what mirroring does to it."""
    points = manifest.landmarks
    if points is None:
        return {"classes": markdown.number(manifest.num_classes), "mirrored images": _mirrored(manifest)}
    first, second = points.normaliser_points
    return {
        "points": markdown.number(points.points),
        "errors are divided by": f"{points.normaliser}: points {first} and {second}, counted from 0",
        "box of a face": points.box,
        "target": f"Gaussians, σ = {points.sigma:g} heatmap pixels",
        "subsets": ", ".join(points.subsets),
        "mirrored images": _mirrored(manifest),
        "points that a mirror swaps": ", ".join(f"{a}–{b}" for a, b in points.flip_pairs),
    }


def _how_to_get(manifest: DatasetManifest) -> str:
    if manifest.source == "embedded":
        return (
            f"Nothing to do: `python -m zoolib run {manifest.task} -p dataset {manifest.name}` works on any machine.\n"
        )
    run = "" if manifest.apart_from else f"python -m zoolib run {manifest.task} -p dataset {manifest.name}\n"
    sources = manifests.whole(manifest).sources
    fetch = f"```bash\npython -m zoolib fetch {manifest.name}\n```\n\nOr put" if sources else "Put"
    return (
        f"{fetch} `train.parquet` and `test.parquet` into a folder `{manifest.folder}/` and name the folder above "
        "it:\n\n"
        f"```bash\nexport ZOOLIB_DATA=/data    # the folder that holds {manifest.folder}/train.parquet\n"
        f"{run}```\n\nThe columns are described in [Add a dataset](../extend/dataset.md).\n"
    )


def _variant(variant: Variant) -> str:
    comparable = "yes" if variant.official else "no: never compare its numbers with published ones"
    facts: dict[str, object] = {
        "what it is": variant.note,
        "images": f"{markdown.number(variant.sizes.train)} train, {markdown.number(variant.sizes.test)} test",
        "official split": comparable,
    }
    sums = {f"SHA-256, {split}": f"`{digest}`" for split, digest in variant.sha256.items()}
    return f"### {variant.name}\n\n" + markdown.facts(facts | sums)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def hub_card(manifest: HubManifest) -> str:
    """One hub's page: its members, their pre-training, checksums and licences, and the methods that run on it."""
    barred = [card.title for card in METHODS.values() if card.homogeneous and not manifest.homogeneous]
    headed = [member.title for member in manifest.members if member.source_head]
    headless = _listed([card.title for card in METHODS.values() if card.source_head])
    methods = "all" if not barred else f"all but {_listed(barred)}, which need one shared architecture"
    if not headed:
        methods += f"{' but' if not barred else ', and'} {headless}, which need a classifier of the pre-training"
    elif len(headed) < len(manifest.members):
        methods += f"; {headless}, which need a classifier of the pre-training, for {_listed(headed)} alone"
    facts = {
        "name": f"`{manifest.name}`",
        "members": len(manifest.members),
        "architecture": "the same for all members" if manifest.homogeneous else "differs between members",
        "methods": methods,
    }
    rows = [
        (
            f"`{member.name}`",
            _architecture(member),
            member.pretraining,
            markdown.number(member.num_features),
            member.input_size,
        )
        for member in manifest.members
    ]
    parts = [f"# {manifest.title}\n", manifest.description + "\n", markdown.facts(facts), "## Members\n"]
    parts.append(markdown.table(("member", "architecture", "pre-trained on", "features", "input (px)"), rows))
    parts += [_member(manifest, member) for member in manifest.members]
    return "\n".join(parts)


def _architecture(member: MemberManifest) -> str:
    library, name = member.architecture.split(":")
    return f"{library} `{name}`"


def _member(hub: HubManifest, member: MemberManifest) -> str:
    kind, _, where = member.weights.partition(":")
    weights = {"package": f"Python package `{where}`", "packaged": f"`{where}`, ships with zoolib", "random": "random",
               "fetch": f"`{where}`, fetched", "file": f"`{where}`",
               "made": f"`{where}`, made by `python -m zoolib pretrain {hub.name}`"}  # fmt: skip
    facts: dict[str, object] = {
        "weights": weights[kind],
        "SHA-256": f"`{member.sha256}`" if member.sha256 else "",
        "normalised by": f"mean {_triple(member.mean)}, standard deviation {_triple(member.std)}",
        "input": f"always resized to {member.input_size} px" if member.fixed_input else "any size",
        **origins.member_facts(member),
        "licence": _stated(f"member {member.name!r} of hub {hub.name!r}", member.licence),
        "home page": markdown.link(member.url) if member.url else "",
    }
    return f"### {member.title}\n\n" + markdown.facts(facts)


def _triple(values: tuple[float, float, float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _stated(what: str, value: str) -> str:
    if not value.strip():
        raise ZoolibError(f"{what} states no licence; add one to its manifest, or say who may use it")
    return value


# Tables ---------------------------------------------------------------------------------------------------------------


def method_table() -> str:
    """The table of methods with their options and defaults."""
    rows = [
        (f"`{card.name}`", card.summary,
         "one shared architecture" if card.homogeneous else "members with a classifier" if card.source_head else "any",
         ", ".join(f"`{key}` = {markdown.words(value)}" for key, value in card.options.items()) or "none")
        for card in METHODS.values()
    ]  # fmt: skip
    return markdown.table(("method", "in one line", "hub", "options and defaults"), rows)


def dataset_table() -> str:
    """Every dataset in one line, with a link to its card."""
    rows = [
        (
            f"[{m.title}]({name}.md)",
            _target(m),
            markdown.number(m.sizes.train),
            markdown.number(m.sizes.test),
            _reach(m),
            m.licence,
        )
        for name, m in manifests.datasets().items()
    ]
    return markdown.table(("dataset", "target", "train", "test", "how to get it", "licence"), rows)


def _target(manifest: DatasetManifest) -> str:
    return f"{manifest.num_classes} classes" if manifest.landmarks is None else f"{manifest.landmarks.points} points"


def _reach(manifest: DatasetManifest) -> str:
    """How to get a dataset, as its manifest alone says: the same on every machine."""
    if manifest.source == "embedded":
        return "embedded"
    return "fetch" if any(map(origins.can_fetch, manifests.whole(manifest).sources)) else "by hand"


def hub_table() -> str:
    """Every hub in one line, with a link to its card."""
    rows = [
        (f"[{m.title}]({name}.md)", f"`{name}`", len(m.members), "shared" if m.homogeneous else "differs")
        for name, m in manifests.hubs().items()
    ]
    return markdown.table(("hub", "name", "members", "architecture"), rows)
