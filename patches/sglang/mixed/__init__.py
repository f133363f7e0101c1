"""Mixed attention in SGLang: rollouts of gate training, from the server that later serves the model.

Every head computes full and streaming attention over one stock KV pool, and its gate mixes the two. The gates
are parameters of the model, replaced while the server runs through SGLang's own weight updates.
"""
