"""Names of the variables in the tiny reasoner's problems. Each is one token of its tokenizer."""

NAMES = tuple(
    """
    acorn amber anvil apple arrow badge bagel basil bean beet berry birch bloom boat brick bridge broom
    brush cabin cable camel candle canoe cedar chalk cherry clay cliff clock cloud clover coal coast
    comet copper coral cotton crane creek crow daisy dawn delta desk dome dove drum eagle earth ember
    fern fig flame flute forest fox frost garlic ginger glass goat grape gravel grove hammer harbor
    hazel heron honey ivory jade kettle kite ladder lake lamp lantern lemon lily linen lion lotus maple
    marble meadow melon mint mirror moon moss nest nut oak ocean olive onion orchid otter owl paper
    peach pearl pebble pepper pine planet plum pond prism quail quartz raven reed ridge river robin rose
    saddle sage salt sand shell silk silver spruce star stone storm straw sugar swan table thorn tiger
    timber topaz tower trail tulip valley velvet violet walnut water wheat willow wolf
    """.split()
)
