"""Two addresses: make a transfer, and see the accounts."""

from __future__ import annotations

from django.urls import path

from transfers import views

urlpatterns = [path("transfer", views.transfer), path("accounts", views.accounts)]
