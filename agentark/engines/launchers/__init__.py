"""Launchers start OpenAI-compatible servers for a run; the engine that talks to them is always `openai`."""
