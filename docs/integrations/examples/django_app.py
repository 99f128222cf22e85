"""Django in one file: a middleware runs each view in a transaction as the user of the request."""

import os
from wsgiref.simple_server import make_server

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import OperationalError, connection, models, transaction
from django.http import JsonResponse
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY=os.urandom(32).hex(), MIDDLEWARE=[f"{__name__}.as_user"],
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"],
        "NAME": os.environ["PGDATABASE"], "USER": os.environ["PGUSER"], "PASSWORD": os.environ["PGPASSWORD"],
        "CONN_MAX_AGE": None}})
django.setup()


class Flight(models.Model):
    carrier = models.TextField()

    class Meta:
        app_label, managed, db_table = "app", False, 'app"."flights'


def as_user(get_response):
    def middleware(request):
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer":
            return JsonResponse({"error": "sign in"}, status=401)
        with transaction.atomic():
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT set_config('bodata.impersonation_token', %s, true)", [token])
            except OperationalError as error:
                if error.__cause__.sqlstate != "28000":
                    raise
                transaction.set_rollback(True)
                return JsonResponse({"error": "sign in again"}, status=401)
            return get_response(request)
    return middleware


def flights(request):
    return JsonResponse(dict(Flight.objects.values_list("carrier").annotate(models.Count("id"))))


urlpatterns = [path("flights", flights)]

if __name__ == "__main__":
    make_server("127.0.0.1", int(os.environ["PORT"]), get_wsgi_application()).serve_forever()
