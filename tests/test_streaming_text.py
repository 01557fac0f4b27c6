"""Text from tokens as they come: whole characters, and nothing of a stop string, however the bytes are cut."""

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from labkit.tokenizers.streaming import TextStream


def stream(chunks: list[bytes], stop: list[str] = ()) -> tuple[list[str], TextStream]:
    """What each chunk gave, then what the end gave."""
    out = TextStream(stop)
    return [*(out.feed(chunk) for chunk in chunks), out.finish()], out


def cut_at_stop(text: str, stop: list[str]) -> str:
    """Up to the stop string that is complete first; of several that end at the same place, the longest."""
    complete = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    return text[: min(complete)[1]] if complete else text


@st.composite
def chunked(draw, text: st.SearchStrategy[bytes]) -> list[bytes]:
    data = draw(text)
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=20)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


UTF8 = st.text(st.sampled_from("aab é日🙂\n") | st.characters(codec="utf-8")).map(str.encode)
DATA = st.data()
STOPS = st.lists(st.text("ab é日🙂\n", min_size=1, max_size=4), max_size=4)


@hypothesis_settings(max_examples=300)
@given(chunks=chunked(UTF8 | st.binary()), stop=STOPS)
def test_all_that_is_given_out_is_the_decoded_text_cut_at_the_first_stop(chunks, stop):
    pieces, out = stream(chunks, stop)
    text = b"".join(chunks).decode("utf-8", errors="replace")
    assert "".join(pieces) == out.text == cut_at_stop(text, stop)
    assert out.stopped == any(s in text for s in stop)


@hypothesis_settings(max_examples=200)
@given(text=st.text("ab", max_size=20), stop=st.lists(st.text("ab", min_size=1, max_size=5), max_size=4), data=DATA)
def test_how_the_text_is_cut_into_tokens_changes_nothing(text, stop, data):
    """Overlapping stop strings over two letters: the hardest case for holding back."""
    one_by_one, _ = stream([c.encode() for c in text], stop)
    any_chunks, _ = stream(data.draw(chunked(st.just(text.encode()))), stop)
    at_once, _ = stream([text.encode()], stop)
    assert "".join(one_by_one) == "".join(any_chunks) == "".join(at_once)


@hypothesis_settings(max_examples=200)
@given(chunks=chunked(UTF8), stop=STOPS)
def test_nothing_given_out_is_ever_part_of_a_stop_string_or_half_a_character(chunks, stop):
    out = TextStream(stop)
    for chunk in chunks:
        piece = out.feed(chunk)
        assert "\ufffd" not in piece or "\ufffd".encode() in b"".join(chunks)
        assert not any(s in out.text for s in stop)


def test_a_character_appears_with_its_last_byte():
    smile = "🙂".encode()
    pieces, _ = stream([smile[:1], smile[1:3], smile[3:], b"!"])
    assert pieces == ["", "", "🙂", "!", ""]


def test_bytes_of_an_unfinished_character_become_a_replacement_at_the_end():
    pieces, out = stream([b"a", "é".encode()[:1]])
    assert pieces == ["a", "", "\ufffd"] and out.text == "a\ufffd"


def test_text_that_may_begin_a_stop_waits_until_it_is_known_not_to():
    pieces, out = stream([b"x", b"\n", b"y", b"\n", b"\n", b"z"], ["\n\n"])
    assert pieces == ["x", "", "\ny", "", "", "", ""] and out.text == "x\ny" and out.stopped


def test_without_a_stop_text_comes_at_once():
    pieces, _ = stream([b"ab", b"c", b"\n"])
    assert pieces == ["ab", "c", "\n", ""]


def test_after_a_stop_nothing_more_comes():
    out = TextStream(["b"])
    assert [out.feed(b"a"), out.feed(b"b"), out.feed(b"c"), out.finish()] == ["a", "", "", ""]
    assert out.text == "a"


def test_the_stop_that_is_complete_first_counts_even_if_another_began_before():
    for chunks in ([b"xabcd"], [b"x", b"a", b"b", b"c", b"d"], [b"xab", b"cd"]):
        assert stream(chunks, ["abcd", "b"])[1].text == "xa"
        assert stream(chunks, ["abc", "bc"])[1].text == "x"


def test_a_stop_that_is_complete_too_early_is_text_and_one_that_only_began_early_is_a_stop():
    out = TextStream(["ab"])
    assert [out.feed(b"ab", may_stop=False), out.feed(b"xa", may_stop=False), out.feed(b"b")] == ["ab", "x", ""]
    assert out.stopped and out.text == "abx"


def test_what_is_held_back_comes_out_at_the_end():
    pieces, _ = stream([b"end", b"<|", b"im"], ["<|im_end|>"])
    assert "".join(pieces) == "end<|im" and pieces[-1] == "<|im"


def test_a_hundred_thousand_tokens_take_no_time_that_grows_with_the_text():
    out = TextStream(["never", "ever"])
    for _ in range(100_000):
        out.feed(b"ne ")
    out.finish()
    assert len(out.text) == 300_000
