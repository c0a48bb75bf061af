"""How two images are compared; that two builds are the same, `make reproducible` tells."""

from pipeline.reproducible import Layer, differences, layers

CONFIG = {
    "history": [
        {},  # an imported base says nothing of itself
        {"created_by": "ENV A=b", "empty_layer": True},
        {"created_by": "COPY /image / # buildkit"},
    ],
    "rootfs": {"diff_ids": ["sha256:1", "sha256:2"]},
}


def test_a_layer_is_named_by_what_made_it() -> None:
    assert layers(CONFIG) == [
        Layer("the base", "sha256:1"),
        Layer("COPY /image / # buildkit", "sha256:2"),
    ]


def test_differences() -> None:
    first = layers(CONFIG)
    assert differences(first, first) == []
    assert differences(first, [first[0], first[1]._replace(digest="sha256:3")]) == [
        first[1].made_by
    ]
    assert differences(first, first[:1]) == ["the steps themselves"]
