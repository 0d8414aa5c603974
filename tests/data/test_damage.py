"""What stands in for a damaged image: worked out anew for any pattern of damage and any order of asking."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.data.damage import StandIns, described
from widestep.data.loading import NOTHING
from widestep.errors import DataError


class Store:
    """Knows which of its images are whole; counts how often each was decoded."""

    def __init__(self, whole: str, num_val: int = 0) -> None:
        self.whole, self.num_train = whole, len(whole) - num_val
        self.decoded = [0] * len(whole)

    def name(self, image: int) -> str:
        return f"photo {image}"

    def decode(self, image: int) -> None:
        self.decoded[image] += 1
        if self.whole[image] == "-":
            raise DataError(f"photo {image} is broken")


@pytest.mark.parametrize(
    ("whole", "expected"),
    [("+++", [0, 1, 2]), ("-+-+", [1, 1, 3, 3]), ("+---", [0, 0, 0, 0]), ("---+", [3, 3, 3, 3]), ("--+--", [2, 2, 2, 2, 2])],
)
def test_the_next_whole_image_and_after_the_last_the_first(whole, expected):
    store = Store(whole)
    stand_ins = StandIns(store)
    assert [stand_ins.first_sound(image, store.decode) for image in range(len(whole))] == expected
    assert sorted(stand_ins.reasons) == [image for image, letter in enumerate(whole) if letter == "-"]


@given(st.text("-+", min_size=1, max_size=30).filter(lambda whole: "+" in whole), st.data())
def test_it_depends_on_the_data_set_alone(whole, data):
    store = Store(whole)
    stand_ins = StandIns(store)
    for image in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=60)):
        expected = next(one % len(whole) for one in range(image, 2 * len(whole)) if whole[one % len(whole)] == "+")
        assert stand_ins.first_sound(image, store.decode) == expected
    assert all(count <= 1 for count, letter in zip(store.decoded, whole, strict=True) if letter == "-")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=10, unique=True), st.integers(0, 9))
def test_images_that_break_later_are_passed_too(order, image):
    """Whatever was found before, no broken image is handed out, and the search ends."""
    store = Store("+" * 10)
    stand_ins = StandIns(store)
    for broken in order:
        store.whole = store.whole[:broken] + "-" + store.whole[broken + 1 :]
        if "+" not in store.whole:
            with pytest.raises(DataError, match="None of the 10 does"):
                stand_ins.first_sound(image, store.decode)
            break
        expected = next(one % 10 for one in range(image, 20) if store.whole[one % 10] == "+")
        assert stand_ins.first_sound(image, store.decode) == expected


def test_a_long_run_of_damage_is_walked_once():
    store = Store("-" * 50_000 + "+")
    stand_ins = StandIns(store)
    for image in range(0, 50_000, 5):
        assert stand_ins.first_sound(image, store.decode) == 50_000
    assert max(store.decoded[:-1]) == 1


def test_a_validation_image_is_replaced_by_nothing():
    store = Store("+-" + "-+", num_val=2)
    stand_ins = StandIns(store)
    assert [stand_ins.first_sound(image, store.decode) for image in range(4)] == [0, 0, NOTHING, 3]


def test_many_threads_find_what_one_finds():
    store = Store("+--+---" * 40)
    stand_ins = StandIns(store)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda image: stand_ins.first_sound(image, store.decode), range(280)))
    alone = StandIns(store)
    assert found == [alone.first_sound(image, store.decode) for image in range(280)]


def test_without_any_whole_image_there_is_an_error():
    store = Store("---")
    with pytest.raises(DataError, match=r"None of the 3 does, beginning with 'photo 1': photo 1 is broken\."):
        StandIns(store).first_sound(1, store.decode)


def test_in_words():
    def name(image):
        return f"{image}.jpg"

    assert described([4], name) == "1 damaged image: '4.jpg'"
    assert described([4, 7, 9], name) == "3 damaged images: '4.jpg', '7.jpg', '9.jpg'"
    assert described(range(1000, 2005), name) == "1,005 damaged images: '1000.jpg', '1001.jpg', '1002.jpg' and 1,002 more"
