import pyarrow.parquet as pq
import pytest

from full_disk import room_for
from safetypin.artifacts import DamagedArtifactError, UserError
from safetypin.stages._track_tables import read_table, write_table

ROWS = [
    {"name": "a", "count": 1, "value": 0.5, "maybe": None, "flag": True},
    {"name": None, "count": 2, "value": None, "maybe": None, "flag": False},
]


def test_rows_come_back_as_they_were(tmp_path):
    write_table(tmp_path / "t.parquet", ROWS)
    assert read_table(tmp_path / "t.parquet") == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_a_column_of_nothing_counts_as_numbers_and_whole_numbers_stay_whole(tmp_path):
    write_table(tmp_path / "t.parquet", ROWS)
    kinds = {field.name: str(field.type) for field in pq.read_schema(tmp_path / "t.parquet")}
    assert kinds == {
        "name": "string", "count": "int64", "value": "double", "maybe": "double", "flag": "bool",
    }  # fmt: skip


def test_no_rows_make_an_empty_table(tmp_path):
    write_table(tmp_path / "t.parquet", [])
    assert read_table(tmp_path / "t.parquet") == []


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_table(tmp_path / name, ROWS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("content", [None, b"PAR1 cut off"])
def test_a_missing_or_cut_off_table_says_what_to_do(content, tmp_path):
    path = tmp_path / "t.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DamagedArtifactError, match=r"delete its folder and run the stage again"):
        read_table(path)


@pytest.mark.parametrize("room", [0, 3, 500, 50_000])
def test_a_table_on_a_really_full_disk_keeps_the_old_one_and_says_so(tmp_path, room):
    path = tmp_path / "t.parquet"
    write_table(path, ROWS)
    rows = [{"value": number / 7} for number in range(20_000)]
    with (
        pytest.raises(UserError, match=r"the disk is full: .*t\.parquet could not"),
        room_for(room),
    ):
        write_table(path, rows)
    assert read_table(path) == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]
    write_table(path, rows)
    assert read_table(path) == rows
