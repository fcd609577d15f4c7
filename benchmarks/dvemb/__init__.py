"""Questions about data value embeddings, the plugin influencekit-dvemb."""
