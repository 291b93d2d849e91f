"""What is shipped: nothing ignored, nothing secret, nothing too large, and the same files as the same bytes."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

import raydelt
from raydelt.errors import InputError
from raydelt.service.package import collect

MIB = 1 << 20


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def names(folder: Path, **options: object) -> set[str]:
    return set(collect(folder, ship=False, limit=MIB, **options).files)  # type: ignore[arg-type]


def test_code_is_shipped_and_what_is_usually_not_code_stays(tmp_path: Path) -> None:
    kept = {"factory.py", "pkg/__init__.py", "pkg/deep/settings.yaml", "README.md", "pkg/build/helper.py"}
    left = {
        ".git/config",
        ".venv/bin/python",
        "runs/one/run.json",
        "build/lib/x.py",
        "pkg/__pycache__/x.pyc",
        "x.egg-info/PKG-INFO",
        "data/big.parquet",
        "data/rows.csv",
        "weights.safetensors",
        ".env",
        ".env.production",
        "server.pem",
        ".aws/credentials",
        "auth_token",
    }
    write(tmp_path, dict.fromkeys(kept | left, "x"))
    assert names(tmp_path) == kept


def test_ignore_files_agree_with_git(tmp_path: Path) -> None:
    files = ["a.txt", "b.txt", "sub/a.txt", "sub/keep.txt", "sub/deep/a.log", "sub/deep/b.log", "other/x.py", "top.py"]
    write(tmp_path, dict.fromkeys(files, "x"))
    write(tmp_path, {".gitignore": "*.log\n/other/\n/top.py\n# note\nsub/*.txt\n!sub/keep.txt\n"})
    write(tmp_path, {"sub/deep/.gitignore": "!b.log\n"})
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    listed = ["git", "-C", str(tmp_path), "ls-files", "-co", "--exclude-standard"]
    expected = set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split())
    assert names(tmp_path) == expected


def test_a_raydeltignore_comes_last_and_include_overrides_all(tmp_path: Path) -> None:
    write(
        tmp_path, {"small.csv": "1", "other.csv": "2", "notes.md": "3", "build/table.csv": "4", ".gitignore": "*.md"}
    )
    write(tmp_path, {".raydeltignore": "!small.csv\n!notes.md\nlocal.py", "local.py": ""})
    assert names(tmp_path) == {"small.csv", "notes.md", ".gitignore"}
    assert "build/table.csv" in names(tmp_path, include=["build"])
    assert "build/table.csv" in names(tmp_path, include=["build/*.csv"])
    with pytest.raises(InputError, match=r"names no file"):
        names(tmp_path, include=["nothing/*"])
    with pytest.raises(InputError, match=r"below the working directory"):
        names(tmp_path, include=["../secrets"])


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, {"secret.txt": "planted", "in/code.py": "x"})
    os.symlink(tmp_path / "secret.txt", tmp_path / "in/link.txt")
    os.symlink(tmp_path, tmp_path / "in/folder")
    os.symlink(tmp_path / "in/code.py", tmp_path / "in/same.py")
    assert names(tmp_path / "in") == {"code.py", "same.py"}


def test_too_much_names_the_largest_files(tmp_path: Path) -> None:
    write(tmp_path, {f"f{index}.txt": "x" * (index * 100_000) for index in range(1, 9)})
    with pytest.raises(InputError) as caught:
        names(tmp_path)
    assert "3.4 MiB to ship, more than 1.0 MiB" in str(caught.value)
    assert "f8.txt (0.8 MiB), f7.txt (0.7 MiB), f6.txt (0.6 MiB): list them in a .raydeltignore" in str(caught.value)


def test_the_same_files_are_the_same_bytes_and_digest_wherever_and_whenever(tmp_path: Path) -> None:
    written = []
    for place in ("one", "two"):
        write(tmp_path / place, {"b.py": "b", "a/x.py": "x"})
        os.utime(tmp_path / place / "b.py", (1, len(written)))
        package = collect(tmp_path / place, ship=False, limit=MIB)
        package.write(tmp_path / f"{place}.zip", {"spec.json": b"{}"})
        written.append((package.digest, (tmp_path / f"{place}.zip").read_bytes()))
    assert written[0] == written[1]
    (tmp_path / "two/b.py").write_text("changed")
    assert collect(tmp_path / "two", ship=False, limit=MIB).digest != written[0][0]


def test_the_package_is_this_raydelt_whole_and_replaces_one_in_the_folder(tmp_path: Path) -> None:
    write(tmp_path, {"raydelt/old.py": "old", "mine.py": "x"})
    package = collect(tmp_path, ship=True, limit=50 * MIB)
    package.write(tmp_path / "job.zip", {})
    with zipfile.ZipFile(tmp_path / "job.zip") as archive:
        inside = set(archive.namelist())
        assert archive.read("raydelt/__init__.py") == Path(raydelt.__file__).read_bytes()
    home = Path(raydelt.__file__).parent
    assert {f"raydelt/{path.relative_to(home).as_posix()}" for path in home.rglob("*.py")} <= inside
    assert "raydelt/py.typed" in inside
    assert "mine.py" in inside
    assert "raydelt/old.py" not in inside
    assert names(tmp_path) == {"mine.py"}


def test_a_pure_wheel_is_unpacked_and_others_are_refused(tmp_path: Path) -> None:
    def wheel(name: str, pure: str, extra: str = "plug/__init__.py") -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(extra, "x = 1")
            archive.writestr("plug-1.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\n")
        return tmp_path / name

    package = collect(None, ship=False, wheels=[wheel("good.whl", "true")], limit=MIB)
    assert set(package.files) == {"plug/__init__.py", "plug-1.dist-info/WHEEL"}
    with pytest.raises(InputError, match="no pure Python wheel"):
        collect(None, ship=False, wheels=[wheel("native.whl", "false")], limit=MIB)
    with pytest.raises(InputError, match="leaves its folder"):
        collect(None, ship=False, wheels=[wheel("evil.whl", "true", "../x.py")], limit=MIB)
    (tmp_path / "no.whl").write_text("no zip")
    with pytest.raises(InputError, match="cannot be read"):
        collect(None, ship=False, wheels=[tmp_path / "no.whl"], limit=MIB)
