"""An application with Django's ORM: two users, one persistent connection. What it is given comes on stdin."""

import json
import sys

import django
from django.conf import settings

given = json.load(sys.stdin)
where, tokens = given["where"], given["tokens"]
settings.configure(
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "HOST": where["host"], "PORT": where["port"], "USER": where["user"],
        "PASSWORD": where["password"], "NAME": where["dbname"], "CONN_MAX_AGE": None,
        "OPTIONS": {"server_side_binding": given["server_side_binding"], "isolation_level": 2}}},
    INSTALLED_APPS=[], USE_TZ=True, TIME_ZONE="Europe/Berlin")
django.setup()

from django.db import DatabaseError, connection, models, transaction  # noqa: E402


class Order(models.Model):
    carrier = models.TextField()
    note = models.TextField(null=True)
    at = models.DateTimeField(null=True)

    class Meta:
        app_label, managed, db_table = "app", False, 'app"."orders'


def present(user):
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('bodata.impersonation_token', %s, true)", [tokens[user]])


CARRIER = {"alice": "UA", "bob": "AA"}
for user in ("alice", "bob") * 2:
    with transaction.atomic():
        present(user)
        assert set(Order.objects.values_list("carrier", flat=True)) == {CARRIER[user]}
        added = Order.objects.create(carrier=CARRIER[user], note="x")
        assert Order.objects.filter(note="x").update(note="y") == 1
        added.delete()
print("queries")
with transaction.atomic():
    present("alice")
    try:
        with transaction.atomic():
            Order.objects.all().delete()
            raise KeyError
    except KeyError:
        pass
    assert Order.objects.count() == 10
print("nested")
try:
    Order.objects.count()
except DatabaseError as error:
    assert "impersonation token" in str(error), error
    print("refused")
with transaction.atomic():
    present("bob")
    assert {order.carrier for order in Order.objects.iterator(chunk_size=3)} == {"AA"}
print("server-side")
with transaction.atomic():
    present("alice")
    with connection.cursor() as cursor:
        cursor.execute("SHOW TimeZone")
        assert cursor.fetchone()[0] == "UTC", "Django's own, with USE_TZ"
print("time")
connection.close()
print("done")
