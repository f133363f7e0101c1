"""Asynchronous training on a stock AReaL: subclasses that its workers load by import path."""
