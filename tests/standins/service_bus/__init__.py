"""Azure Service Bus on this machine: AMQP 1.0 over plain TCP, as much of it as the unmodified azure-servicebus needs.

``codec`` knows AMQP's types, ``frames`` its frames, ``messages`` a message's sections, ``entities`` queues with locks
and sessions, ``connection`` links and flow, ``management`` the requests to ``$management``, ``broker`` what there is,
``storage`` what survives a kill, ``server`` the process that tests start, kill and give faults to.

What is not there: transactions, deferred and scheduled messages, time to live, filters of subscriptions, session state.
"""
