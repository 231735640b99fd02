"""Directions of retrieval: from one modality, or from several at once, to another."""

Direction = tuple[str | tuple[str, ...], str]


def query_of(direction: Direction) -> tuple[str, ...]:
    """The modalities that a direction's queries are of."""
    return (direction[0],) if isinstance(direction[0], str) else tuple(direction[0])


def direction_name(direction: Direction) -> str:
    """ "text->video", and "text+video->motion" of a joint query."""
    return f"{'+'.join(query_of(direction))}->{direction[1]}"


def is_joint(name: str) -> bool:
    """Whether the direction of this name has joint queries."""
    return "+" in name.partition("->")[0]


def parse_joint_query(name: str, modalities: tuple[str, ...]) -> Direction:
    """The direction that a name such as "text+video->motion" means.

    Args:
        name: modalities with + between them, ->, and another modality.
        modalities: those that there are.

    Raises:
        ValueError: something else than that, or a modality that there is not.
    """
    query, _, gallery = name.partition("->")
    parts = (*query.split("+"), gallery)
    unknown = [part for part in parts if part not in modalities]
    if unknown or len(parts) < 3 or len(set(parts)) < len(parts):
        raise ValueError(
            f"joint query {name!r}: expected two different modalities or more and a third, as in 'text+video->motion', "
            f"of {', '.join(modalities)}"
        )
    return parts[:-1], gallery
