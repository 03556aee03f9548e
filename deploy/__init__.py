"""Engines, latency and bundles: everything between an exported model and a device."""
