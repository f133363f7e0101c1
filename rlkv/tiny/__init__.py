"""The tiny reasoner: a small reasoning model of our own, its task, and how it is trained."""
