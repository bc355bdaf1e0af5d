"""Accounts that are looked for, locked and deleted."""

import botocore.exceptions
import pytest

from test_cloudtrail import PASSWORD, Person


@pytest.fixture
def person(aws):
    return Person(aws)


def error_of(call, **arguments):
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        call(**arguments)
    return raised.value.response["Error"]["Code"]


def test_an_account_is_found_by_its_sub_and_no_other(person):
    other = person.idp.admin_create_user(
        UserPoolId=person.pool, Username="bob", MessageAction="SUPPRESS"
    )
    assert other["User"]["Username"] == "bob"
    for filter_ in (f'sub = "{person.sub}"', f'"sub" = "{person.sub}"'):
        found = person.idp.list_users(UserPoolId=person.pool, Filter=filter_)["Users"]
        assert [user["Username"] for user in found] == [person.name]
    nobody = person.idp.list_users(UserPoolId=person.pool, Filter='sub = "nobody"')["Users"]
    assert nobody == []


@pytest.mark.parametrize("end", ["admin_disable_user", "admin_delete_user"])
def test_whoever_is_locked_out_gets_no_tokens_any_more(person, end):
    client, tokens = person.signed_in()
    again = {
        "ClientId": client,
        "AuthFlow": "REFRESH_TOKEN_AUTH",
        "AuthParameters": {"REFRESH_TOKEN": tokens["RefreshToken"]},
    }
    assert person.idp.initiate_auth(**again)["AuthenticationResult"]["AccessToken"]
    getattr(person.idp, end)(**person.who)
    assert error_of(person.idp.initiate_auth, **again) == "NotAuthorizedException"
    password = {
        "ClientId": client,
        "AuthFlow": "USER_PASSWORD_AUTH",
        "AuthParameters": {"USERNAME": person.name, "PASSWORD": PASSWORD},
    }
    assert error_of(person.idp.initiate_auth, **password) in (
        "NotAuthorizedException",
        "UserNotFoundException",
    )


def test_an_account_that_is_gone_is_deleted_no_second_time(person):
    person.idp.admin_delete_user(**person.who)
    for call in ("admin_delete_user", "admin_disable_user", "admin_get_user"):
        assert error_of(getattr(person.idp, call), **person.who) == "UserNotFoundException"
