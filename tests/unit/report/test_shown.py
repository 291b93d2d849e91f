"""The examples that the page names are those that a look at all of them finds, with what their rows hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raydelt.report.composition import GROUPS, Sample, coarser, composition, sampled, spoken
from raydelt.report.duplicates import near_duplicates, part_of
from raydelt.report.ends import LISTED, Cuts, ends
from raydelt.report.languages import languages
from raydelt.report.shown import TEXT, Look, clean, picture, shown
from raydelt.storage import Part

CUTS: list[tuple[int, ...]] = [(), (80, 160), (1, 2, 3, 239), (0, 120, 120)]


def found_ends(run: Any) -> Any:
    return ends(run.store, run.manifests["ranking"], run.manifests["selection"], run.config.select, classes=3)


@pytest.mark.parametrize("cuts", CUTS)
def test_ends_and_borderline_are_those_of_the_whole_ranking(finished: Callable[..., Any], cuts: Any) -> None:
    run = finished(cuts=cuts)
    rows = found_ends(run)["rows"]
    table = run.ranked
    ids, score, gate = table["example_id"].to_pylist(), table["score"].to_numpy(), table["gate"].to_numpy()
    by_list = {name: [row["id"] for row in rows if name in row["lists"]] for name in ("top", "bottom", "borderline")}
    assert by_list["top"] == ids[: -LISTED - 1 : -1]
    assert by_list["bottom"] == ids[:LISTED][::-1]
    cut = run.manifests["selection"].facts["cut_score"]
    passing = [i for i in np.lexsort((np.arange(240), np.abs(score - cut))) if gate[i]][:LISTED]
    assert by_list["borderline"] == [ids[i] for i in sorted(passing, reverse=True)]
    assert all(row["kept"] == (row["rank"] >= 120) for row in rows)
    assert [row["score"] for row in rows] == [score[row["rank"]] for row in rows]


def test_quotas_cut_by_class_and_samples_cut_nowhere(finished: Callable[..., Any]) -> None:
    run = finished(spec={"select": {"value": 0.5, "quotas": {}}})
    score, label, gate = (run.ranked[name].to_numpy() for name in ("score", "label", "gate"))
    kept = np.arange(240) >= 120
    cuts = np.array([score[kept & gate & (label == c)].min() for c in range(3)])
    away = np.where(gate, np.abs(score - cuts[label]), np.inf)
    expected = set(np.lexsort((np.arange(240), away))[:LISTED].tolist())
    assert {row["rank"] for row in found_ends(run)["rows"] if "borderline" in row["lists"]} == expected
    drawn = found_ends(finished(spec={"select": {"value": 0.5, "sample": {"method": "poisson"}}}))
    assert not [row for row in drawn["rows"] if "borderline" in row["lists"]]
    assert "No score decides" in drawn["note"]
    assert np.isnan(Cuts().away(np.ones(2), np.zeros(2, int))).all()


def test_what_is_shown_is_what_the_rows_hold(finished: Callable[..., Any]) -> None:
    texts = ["short", "y" * (TEXT + 5), "a\x00b", "שלום 🦉"]
    run = finished(texts=texts, sources=("in/a.csv", "in/b c.csv"))
    wanted = {f"{row:032x}": row // 80 for row in (0, 1, 2, 3, 81, 239)} | {"nobody": 1, "lost": -1}
    look = Look.at(run.manifests["corpus"], run.components)
    found = shown(run.parts, wanted, look, run.manifests["selection"].parts)
    assert set(found) == {f"{row:032x}" for row in (0, 1, 2, 3, 81, 239)}
    kept = set(run.ranked["example_id"].to_pylist()[120:])
    for name, entry in found.items():
        row = int(name, 16)
        assert entry["components"] == {c: pytest.approx(float(run.columns[c][row])) for c in run.components}
        assert (entry["row"], entry["source_file"]) == (row, ["in/a.csv", "in/b c.csv"][row % 2])
        assert entry["kept"] == (name in kept)
        assert entry["label_clean"] == run.made.classes[row % 3]
        assert entry["text_characters"] == len(texts[row % 4])
        assert entry["text"] == clean(texts[row % 4], TEXT)
    assert found[f"{1:032x}"]["text"] == "y" * TEXT
    assert found[f"{2:032x}"]["text"] == "a\N{REPLACEMENT CHARACTER}b"


def test_pictures_keep_shape_and_contrast(finished: Callable[..., Any]) -> None:
    run = finished(shape=(3, 5, 4))
    look = Look.at(run.manifests["corpus"], run.components)
    assert look.pictures
    entry = shown(run.parts, {f"{0:032x}": 0}, look, run.manifests["selection"].parts)[f"{0:032x}"]
    image = decoded(entry["picture"])
    assert (image.mode, image.size) == ("RGB", (4, 5))
    assert (np.asarray(image).min(), np.asarray(image).max()) == (0, 255)
    wide = decoded(picture(np.arange(200.0 * 100), (1, 100, 200)))
    assert (wide.mode, wide.size) == ("L", (56, 28))
    assert np.asarray(decoded(picture(np.full(16, np.nan), (1, 4, 4)))).max() == 128
    plain = finished(shape=(12,))
    told = shown(plain.parts, {f"{0:032x}": 0}, Look.at(plain.manifests["corpus"], []), [])[f"{0:032x}"]
    assert (told["width"], len(told["x"])) == (12, 6)


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


@pytest.mark.parametrize("cuts", CUTS)
def test_near_duplicates_are_grouped_by_what_they_copy(finished: Callable[..., Any], cuts: Any) -> None:
    run = finished(cuts=cuts, copies=True)
    table = {}
    for part in run.manifests["neighbours"].parts:
        own = run.store.read_table(part.file)
        for name, cosine, head in zip(*(own[c].to_pylist() for c in own.column_names), strict=True):
            if head is not None and cosine > 0.95:
                table.setdefault(head, []).append((-cosine, name))
    found = near_duplicates(run.store, run.manifests["corpus"], run.manifests["neighbours"])
    assert found is not None
    assert found["examples"] == sum(map(len, table.values()))
    assert found["groups"] == len(table)
    expected = sorted(table, key=lambda head: (-len(table[head]), head))[: len(found["listed"])]
    assert [group["head"] for group in found["listed"]] == expected
    for group in found["listed"]:
        assert group["size"] == len(table[group["head"]])
        assert [one["id"] for one in group["members"]] == [name for _, name in sorted(table[group["head"]])[:5]]
        assert group["part"] == -1
    assert near_duplicates(run.store, run.manifests["corpus"], None) is None


def test_the_part_of_an_id_follows_from_its_hash() -> None:
    from raydelt.examples import draw_keys, partition_of

    ids = [f"{i * 7919:032x}" for i in range(50)]
    parts = partition_of(draw_keys(ids), 8).tolist()
    facts = {"partitions": 8, "partition": [0, 1, 2, 4, 5, 6, 7]}
    for name, part in zip(ids, parts, strict=True):
        expected = -1 if part == 3 else facts["partition"].index(part)  # type: ignore[attr-defined]
        assert part_of(name, facts) == expected
    assert part_of("x", {}) == -1


@pytest.mark.parametrize("cuts", CUTS)
def test_the_composition_is_counted_exactly_where_all_is_looked_at(
    finished: Callable[..., Any], cuts: tuple[int, ...]
) -> None:
    texts = ["a", "bb" * 50, "ccc" * 400]
    run = finished(cuts=cuts, texts=texts, sources=("d/one/a.csv", "d/two/b.csv"))
    found = composition(*(run.store, *(run.manifests[name] for name in ("corpus", "ranking", "selection"))))
    assert (found["rows"], found["of"], found["exact"]) == (240, 240, True)
    rows = np.array([int(name, 16) for name in run.ranked["example_id"].to_pylist()])
    score, kept = np.empty(240), np.zeros(240, bool)
    score[rows], kept[rows[120:]] = run.ranked["score"].to_numpy(), True
    for place, own in enumerate(found["sources"]):
        mine = np.arange(240) % 2 == place
        assert own["name"] == ["d/one/a.csv", "d/two/b.csv"][place]
        assert (own["corpus"], own["selected"]) == (mine.sum(), (mine & kept).sum())
        np.testing.assert_allclose(own["quantiles"], np.percentile(score[mine], [5, 25, 50, 75, 95]))
    assert sum(own["selected"] for own in found["classes"]) == 120
    long = found["lengths"]
    assert (long["unit"], sum(long["corpus"]), sum(long["selected"])) == ("characters", 240, 120)
    assert (long["edges"][0], long["edges"][-1]) == (1, 1200)
    assert long["corpus_median"] == np.median([len(texts[row % 3]) for row in range(240)])


TONGUES = {
    "en": "The committee met on Tuesday and decided that the bridge would be closed until the spring.",
    "de": "Der Ausschuss trat am Dienstag zusammen und beschloss, die Brücke bis zum Frühjahr zu sperren.",
    "fr": "Le comité s'est réuni mardi et a décidé que le pont serait fermé jusqu'au printemps prochain.",
    "ar": "اجتمعت اللجنة يوم الثلاثاء وقررت إغلاق الجسر حتى حلول فصل الربيع القادم.",
    "ja": "委員会は火曜日に会合を開き、春まで橋を閉鎖することを決定した。",
}


def test_languages_are_told_and_those_without_words_are_not() -> None:
    assert languages(TONGUES.values()) == list(TONGUES)
    assert languages(["", None, "\x00\x01"]) == ["und"] * 3
    assert languages([TONGUES["fr"] * 1000]) == ["fr"]


@pytest.mark.parametrize("cuts", CUTS)
def test_the_selection_is_set_beside_the_corpus_by_language(finished: Callable[..., Any], cuts: Any) -> None:
    run = finished(cuts=cuts, texts=[TONGUES["en"], TONGUES["en"], TONGUES["de"], TONGUES["fr"]])
    found = composition(*(run.store, *(run.manifests[name] for name in ("corpus", "ranking", "selection"))))
    kept = [int(name, 16) % 4 for name in run.ranked["example_id"].to_pylist()[120:]]
    expected = {"en": (120, kept.count(0) + kept.count(1)), "de": (60, kept.count(2)), "fr": (60, kept.count(3))}
    assert {own["name"]: (own["corpus"], own["selected"]) for own in found["languages"]} == expected
    alone = finished(texts=[TONGUES["de"]])
    manifests = (alone.manifests[name] for name in ("corpus", "ranking", "selection"))
    assert composition(alone.store, *manifests)["languages"] is None


def test_rare_languages_are_told_together_and_only_the_first_texts_are_heard() -> None:
    language = np.concatenate([np.zeros(900), np.ones(95), [2, 3], np.full(200, -1)]).astype(int)
    n = len(language)
    kept, zero = np.arange(n) % 2 == 0, np.zeros(n, int)
    sample = Sample(kept, np.zeros(n), zero, zero, zero, language, [], ["en", "de", "tl", "xx"], "characters")
    found = spoken(sample)
    assert found is not None
    assert [(own["name"], own["corpus"]) for own in found] == [("en", 900), ("de", 95), ("others", 2)]
    assert sum(own["selected"] for own in found) == kept[:997].sum()


def test_a_large_corpus_is_looked_at_in_part() -> None:
    parts = [Part(f"{i}", 65_536, 1, "") for i in range(300)]
    assert len(sampled(parts)) == 4
    assert len(sampled([Part("", 1000, 1, "")] * 40)) == 16
    assert sampled([]) == []


def test_sources_are_told_apart_as_finely_as_fits() -> None:
    files = [f"s3://b/{folder}/{i}.png" for folder in ("cat", "dog") for i in range(40)]
    codes, names = coarser(np.arange(80), files)
    assert names == ["s3://b/cat", "s3://b/dog"]
    assert np.bincount(codes).tolist() == [40, 40]
    flat = [f"in/{i:03d}.png" for i in range(80)]
    assert coarser(np.arange(80), flat)[1] == ["others"]
    skewed = np.concatenate([np.repeat(np.arange(5), 50), np.arange(80)])
    codes, names = coarser(skewed, flat)
    assert len(names) == GROUPS
    assert names[:5] == flat[:5]
    assert names[-1] == "others"
    assert np.bincount(codes)[:5].tolist() == [51] * 5
    assert coarser(np.array([0, 1]), ["a", "b"])[1] == ["a", "b"]


def test_no_length_is_no_chart(finished: Callable[..., Any]) -> None:
    run = finished(spec={"report": {"html": False}})
    found = composition(*(run.store, *(run.manifests[name] for name in ("corpus", "ranking", "selection"))))
    assert found["lengths"] is None
    assert found["sources"] is None
