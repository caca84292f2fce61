"""The cache of image files: bounded in bytes, what was not used for longest goes first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from worker import caches
from worker.ingest.image_cache import NAME, ImageCache

FILE = bytes(1000)


@pytest.fixture
def cache_of() -> Iterator[Callable[[int], ImageCache]]:
    made: list[ImageCache] = []

    def make(max_bytes: int) -> ImageCache:
        made.append(ImageCache(max_bytes))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


def kept(cache: ImageCache, count: int) -> list[int]:
    return [i for i in range(count) if cache.get(f"url{i}") is not None]


def test_what_was_not_used_for_longest_goes_first(cache_of: Callable[[int], ImageCache]) -> None:
    cache = cache_of(3500)
    for i in range(3):
        cache.put(f"url{i}", FILE)
    assert cache.get("url0") == FILE
    cache.put("url3", FILE)
    assert kept(cache, 4) == [0, 2, 3]


def test_it_never_holds_more_than_it_may(cache_of: Callable[[int], ImageCache]) -> None:
    cache = cache_of(5000)
    for i in range(200):
        cache.put(f"url{i % 17}", bytes(i * 20))
        assert cache.size().bytes <= 5000
    assert cache.size().entries > 0


def test_a_file_larger_than_all_that_may_be_kept_throws_nothing_out(
    cache_of: Callable[[int], ImageCache],
) -> None:
    cache = cache_of(3500)
    cache.put("url0", FILE)
    cache.put("url1", bytes(4000))
    assert kept(cache, 2) == [0]


def test_the_same_address_is_counted_once(cache_of: Callable[[int], ImageCache]) -> None:
    cache = cache_of(10_000)
    cache.put("url0", FILE)
    once = cache.size()
    cache.put("url0", FILE)
    assert cache.size() == once
    cache.discard("url0")
    assert cache.size() == (0, 0)


def test_it_is_measured_and_drained_as_a_cache_with_a_limit(cache_of: Callable[[int], ImageCache]) -> None:
    cache = cache_of(10_000)
    cache.put("url0", FILE)
    assert caches.sizes()[NAME] == cache.size()
    assert NAME not in caches.unbounded()
    assert caches.drain(bounded=True) == {}
    assert caches.sizes()[NAME] == (0, 0)
    cache.close()
    assert NAME not in caches.sizes()


def test_with_a_limit_of_zero_there_is_none(cache_of: Callable[[int], ImageCache]) -> None:
    cache = cache_of(0)
    cache.put("url0", b"x")
    assert (cache.get("url0"), NAME in caches.sizes()) == (None, False)


def test_threads_do_not_disturb_its_count(cache_of: Callable[[int], ImageCache]) -> None:
    cache = cache_of(20_000)

    def use(seed: int) -> None:
        for i in range(2000):
            url = f"url{(i * seed) % 40}"
            cache.put(url, bytes(i % 1500))
            cache.get(f"url{i % 40}")
            if i % 7 == 0:
                cache.discard(url)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in (1, 3, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.size().bytes <= 20_000
    for i in range(40):
        cache.discard(f"url{i}")
    assert cache.size() == (0, 0)
