"""Relays: brokers as destinations, behind which another syncd receives; an adapter each, behind `base.RelayOutlet`."""
