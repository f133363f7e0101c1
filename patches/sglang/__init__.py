"""RLKV inside a stock SGLang, through its plugin entry point; LEDGER.md lists what is touched and why.

Nothing here is imported at the top of another part unless that part needs it: SGLang loads ``plugin`` in
every process, and a server without ``--rlkv-heads`` must not pay for the rest.
"""
