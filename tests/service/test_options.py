import string
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.comparison import ARMS, Options
from service.options import OptionFields

NAMES = list(OptionFields.model_fields)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), anything, max_size=5))
def test_whatever_is_given_it_is_within_range_or_refused(given: dict[str, Any]) -> None:
    try:
        options = OptionFields.model_validate(given).as_options()
    except ValidationError:
        return
    assert set(given) <= set(NAMES)
    assert options.margin is None or 0 <= options.margin <= 1
    assert options.min_score is None or 0 <= options.min_score <= 1
    assert 1 <= options.max_boxes <= 20
    assert 1 <= options.top_k <= 100
    assert set(options.arms) <= set(ARMS)
    assert len(options.arms) == len(set(options.arms))


@given(st.lists(st.sampled_from(ARMS), max_size=9), st.sampled_from([",", " , ", ",,"]))
def test_arms_are_a_comma_list_or_an_array(arms: list[str], comma: str) -> None:
    as_text = OptionFields.model_validate({"arms": comma.join(arms)}).as_options()
    assert as_text == OptionFields.model_validate({"arms": arms}).as_options()
    assert as_text.arms == tuple(dict.fromkeys(arms))


@given(st.integers(1, 100), st.floats(0, 1))
def test_numbers_may_be_texts(top_k: int, margin: float) -> None:
    told = OptionFields.model_validate({"top_k": str(top_k), "margin": repr(margin)}).as_options()
    assert told == Options(None, top_k=top_k, margin=margin)
