"""Gymnasium environments; `envs_registry` names them."""
