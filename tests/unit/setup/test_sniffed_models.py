"""Texts without labels need a model, and init tells a language model from an encoder of sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydelt.errors import InputError
from raydelt.precheck import check
from raydelt.setup import begin
from raydelt.setup.begin import Wish
from tests.encoder import write_encoder
from tests.language import sentences, tiny_lm, write_documents

TO_THE_ORDER = ("corpus", "tokens", "scores", "ranking", "selection", "ordered")


def test_a_language_model_scores_texts_as_they_are(tmp_path: Path) -> None:
    source, model = write_documents(tmp_path / "d.jsonl", sentences(40)), tiny_lm(tmp_path / "lm")
    found = begin.begin(Wish(source, model=model), file="s.yaml")
    check(found.config, (*TO_THE_ORDER, "model"))
    assert (found.config.model.kind, found.config.model.path, found.config.model.context) == ("causal_lm", model, 256)
    assert found.config.corpus.text_column == "text"
    assert [spec.kind for spec in found.config.score] == ["lm_loss", "target_alignment", "near_duplicates"]
    assert found.config.corpus.validation.fraction > 0


def test_an_encoder_compares_texts_without_labels_up_to_the_order(tmp_path: Path) -> None:
    source, encoder = write_documents(tmp_path / "d.jsonl", sentences(40)), str(write_encoder(tmp_path / "encoder"))
    found = begin.begin(Wish(source, model=encoder), file="s.yaml")
    check(found.config, TO_THE_ORDER)
    assert found.config.encoder is not None
    assert found.found["task"] == "vectors"


def test_one_file_of_text_is_a_corpus_of_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("\n\n".join(sentences(30)))
    found = begin.begin(Wish(str(tmp_path / "book.txt"), model=tiny_lm(tmp_path / "lm")), file="s.yaml")
    assert found.config.corpus.text_unit == "paragraph"
    assert found.found["looked_at"] == 30


def test_a_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "d.jsonl", sentences(20))
    with pytest.raises(InputError, match="is no folder"):
        begin.begin(Wish(source, model=str(tmp_path / "nothing")), file="s.yaml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no config\.json"):
        begin.begin(Wish(source, model=str(tmp_path / "empty")), file="s.yaml")
    with pytest.raises(InputError, match="is for texts"):
        begin.begin(Wish("builtin://iris", model=tiny_lm(tmp_path / "lm")), file="s.yaml")
