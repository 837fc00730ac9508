"""What is injected into assets: devices, language models, engines, storage. Imports nothing of the other packages."""
