import pytest

from widestep.data.loading import Loading
from widestep.data.source import open_source
from widestep.errors import DataError, UsageError


def opened(spec: str, num_threads: int = 0, **options):
    return open_source(spec, loading=Loading(num_threads=num_threads), **options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"spec": "digits", "augment": "shift_flip"}, "perhaps you meant 'shift-flip'"),
        ({"spec": "digits", "augment": "zzz"}, "none, flip, shift-flip, random-resized-crop. Got 'zzz'."),
        ({"spec": "digits", "num_threads": -1}, "0 or more. Got -1"),
        ({"spec": "digits", "train_images": 9}, "Got train_images = 9"),
        ({"spec": "digits", "image_size": 32}, "image_size = 32"),
        ({"spec": "digits", "evaluation_resize": 8}, "evaluation_resize = 8"),
        ({"spec": "imagenet"}, "folder:PATH"),
        ({"spec": "imagnet"}, "perhaps you meant 'imagenet'"),
        ({"spec": "folder:x", "train_images": 10}, "own training images"),
        ({"spec": "folder:x", "image_size": 4}, "from 8 to 2,048"),
    ],
)
def test_what_cannot_be_opened(arguments, words):
    with pytest.raises(UsageError) as caught:
        opened(**arguments)
    assert words in str(caught.value)


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="existing folder"):
        opened(f"folder:{tmp_path / 'nowhere'}")


def test_options_reach_the_facts():
    assert opened("digits", train_images=960).facts.num_train == 960
