"""The networks themselves: configuration, layers, attention, the Transformer, its loss and its key-value cache.

Nothing here knows about published file formats (that is `families`), about training or about text.
"""
