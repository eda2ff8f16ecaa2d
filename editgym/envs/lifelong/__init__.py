"""LifelongLLMEdit."""
