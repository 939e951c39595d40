"""The agent behind an OpenAI-compatible HTTP interface, and a viewer of its traces.

Needs the extra `serve` (starlette, uvicorn, prometheus-client): pip install 'pixelis-fast[serve]'.
"""
