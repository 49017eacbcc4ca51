"""Event sinks: one adapter per service, each behind `base.EventSink`."""
