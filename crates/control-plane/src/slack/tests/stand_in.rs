//! Against the stand-in for Slack, which takes no argument that Slack's own SDK does not know: what
//! is said there, Slack understands.

use carapace_stand_ins::slack::{STREAM_LIFE, Settings, Slack as StandIn};

use super::*;

/// A workspace in which Ada has written something.
async fn workspace() -> (SlackApi, Place) {
    let settings = Settings {
        bot_token: TOKEN.into(),
        stream_life: STREAM_LIFE,
    };
    let router = StandIn::new(settings).unwrap().router();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let told = async |path: &str, body: Value| {
        let url = format!("{base}/_stand-in/{path}");
        let client = JsonClient::new(PATIENCE);
        let answer = client.send(Method::POST, &url, TOKEN, Some(&body)).await;
        answer.unwrap().json::<Value>().unwrap()
    };
    let ada = told(
        "members",
        json!({ "name": "Ada", "email": "ada@example.com" }),
    )
    .await;
    let channel = told("channels", json!({ "name": "general" })).await;
    let said = json!({ "user": ada["id"], "channel": channel["id"], "text": "hello" });
    let said = told("messages", said).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let place = Place {
        team_id: TeamId::parse(text(&ada["team_id"])).unwrap(),
        channel_id: ChannelId::parse(text(&channel["id"])).unwrap(),
        thread_ts: MessageTs::parse(text(&said["ts"])).unwrap(),
        user_id: SlackUserId::parse(text(&ada["id"])).unwrap(),
    };
    let secret = Secret::known(BotToken::parse(TOKEN).unwrap());
    let url = format!("{base}/api").parse().unwrap();
    (SlackApi::new(url, secret), place)
}

#[tokio::test]
async fn every_call_is_one_that_slack_takes() {
    let (slack, place) = workspace().await;
    let channel = &place.channel_id;
    assert_eq!(slack.team().await.unwrap(), place.team_id);
    let ada = slack.user(&place.user_id).await.unwrap();
    assert_eq!(ada.email.as_deref(), Some("ada@example.com"));
    assert!(ada.is_email_confirmed && !ada.is_bot && !ada.deleted);
    slack.set_status(&place, "is waking up…").await.unwrap();
    slack.set_status(&place, "").await.unwrap();
    let ts = slack.start_stream(&place).await.unwrap();
    slack.append_stream(channel, &ts, "one ").await.unwrap();
    slack.stop_stream(channel, &ts, Some("two")).await.unwrap();
    slack.update(channel, &ts, "one two three").await.unwrap();
    let ts = slack.start_stream(&place).await.unwrap();
    slack.stop_stream(channel, &ts, None).await.unwrap();
    slack.post_message(&place, "a whole one").await.unwrap();
}

#[tokio::test]
async fn what_slack_says_no_to_is_understood() {
    let (slack, place) = workspace().await;
    let channel = &place.channel_id;
    let open = slack.start_stream(&place).await.unwrap();
    let early = slack.update(channel, &open, "whole").await;
    assert!(
        matches!(early, Err(SlackTrouble::Unavailable(_))),
        "{early:?}"
    );
    slack.stop_stream(channel, &open, None).await.unwrap();
    let late = slack.append_stream(channel, &open, "more").await;
    assert!(matches!(late, Err(SlackTrouble::NotStreaming)), "{late:?}");
    let stranger = SlackUserId::parse("U0NOBODY").unwrap();
    let unknown = slack.user(&stranger).await;
    assert!(
        matches!(unknown, Err(SlackTrouble::Refused(_))),
        "{unknown:?}"
    );
    let nowhere = Place {
        channel_id: ChannelId::parse("C0NOWHERE").unwrap(),
        ..place.clone()
    };
    let lost = slack.post_message(&nowhere, "hello?").await;
    assert!(
        matches!(lost, Err(SlackTrouble::Undeliverable(_))),
        "{lost:?}"
    );
    let to_nobody = Place {
        user_id: stranger,
        ..place
    };
    let unshown = slack.start_stream(&to_nobody).await;
    assert!(
        matches!(unshown, Err(SlackTrouble::NotStreamable)),
        "{unshown:?}"
    );
}
