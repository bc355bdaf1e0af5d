import { Duration, RemovalPolicy, Validations } from 'aws-cdk-lib';
import { AccessLogFormat } from 'aws-cdk-lib/aws-apigateway';
import * as apigateway from 'aws-cdk-lib/aws-apigatewayv2';
import { HttpLambdaIntegration } from 'aws-cdk-lib/aws-apigatewayv2-integrations';
import type * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import type * as events from 'aws-cdk-lib/aws-events';
import * as logs from 'aws-cdk-lib/aws-logs';
import * as secretsmanager from 'aws-cdk-lib/aws-secretsmanager';
import { Construct } from 'constructs';
import type { Config } from '../config.ts';
import { itemsOf } from '../control-plane/agents-table.ts';
import type { Alarms } from '../control-plane/alarms.ts';
import { capabilityFunction, output, outputFunction } from '../control-plane/capability.ts';
import type { RustFunction } from '../rust-function.ts';

/** Where Slack sends what happens: the app's Request URL. */
const EVENTS_PATH = '/slack/events';

export interface SlackProps {
  readonly config: Config;
  readonly bus: events.IEventBus;
  readonly table: dynamodb.ITable;
  readonly alarms: Alarms;
}

/** The way in from Slack, and the bot's short answers. What the agent says is the conversation's to stream. */
export class Slack extends Construct {
  readonly reply: RustFunction;
  /** Address of `{"bot_token": "xoxb-…"}`. */
  readonly botTokenSecretArn: string;

  constructor(scope: Construct, id: string, props: SlackProps) {
    super(scope, id);
    const signingSecretArn = slackSecret(this, 'SigningSecret', {
      description: 'Signing secret of the Slack app, as {"signing_secret": "…"}',
      key: 'signing_secret',
    });
    this.botTokenSecretArn = slackSecret(this, 'BotToken', {
      description: 'Token of the Slack bot, as {"bot_token": "xoxb-…"}',
      key: 'bot_token',
    });
    const ingress = ingressFunction(this, props, signingSecretArn);
    this.reply = replyFunction(this, props, this.botTokenSecretArn);
    const api = eventsApi(this, ingress);
    props.alarms.onAny(
      this,
      'IngressFailedAlarm',
      api.metricServerError(),
      'Slack was answered with a server error: it tries again three times, and then the message is lost.',
    );

    output(this, 'SlackEventsUrl', `${api.apiEndpoint}${EVENTS_PATH}`);
    output(this, 'SlackSigningSecretArn', signingSecretArn);
    output(this, 'SlackBotTokenSecretArn', this.botTokenSecretArn);
    outputFunction(this, 'SlackIngress', ingress);
    outputFunction(this, 'SlackReply', this.reply);
  }
}

/**
 * What Slack gives out when the app is installed, which is after this deployment. Until an operator
 * puts it there, a random text stands in its place: no request is signed with it, and it is no token.
 * Returns the secret's ARN.
 */
function slackSecret(scope: Construct, id: string, props: { description: string; key: string }): string {
  const secret = new secretsmanager.Secret(scope, id, {
    description: props.description,
    generateSecretString: {
      secretStringTemplate: '{}',
      generateStringKey: props.key,
      passwordLength: 48,
      excludePunctuation: true,
    },
    removalPolicy: RemovalPolicy.RETAIN,
  });
  Validations.of(secret).acknowledge({
    id: 'AwsSolutions-SMG4',
    reason: 'Slack gives it out, so Secrets Manager cannot make another: docs/slack.md says how it is changed.',
  });
  // Not `secretArn`, a Ref: on AWS that is the same, but to the emulator it is the secret's name.
  return (secret.node.defaultChild as secretsmanager.CfnSecret).attrId;
}

function ingressFunction(scope: Construct, props: SlackProps, signingSecretArn: string): RustFunction {
  const ingress = capabilityFunction(scope, 'Ingress', props.config, {
    binary: 'slack-ingress',
    description: 'Lets in what Slack has signed, and puts each message on the bus',
    // Slack waits three seconds and then sends it again. Whatever is done by then need not be undone.
    timeout: Duration.seconds(10),
    environment: { BUS_NAME: props.bus.eventBusName, SLACK_SIGNING_SECRET_ARN: signingSecretArn },
  });
  ingress.grant(['secretsmanager:GetSecretValue'], signingSecretArn);
  // It is open to the internet: whoever took it over could say this one thing and nothing else.
  ingress.grant(['events:PutEvents'], props.bus.eventBusArn, {
    'ForAllValues:StringEquals': {
      'events:source': 'carapace.slack',
      'events:detail-type': 'Slack Message Received',
    },
  });
  return ingress;
}

function replyFunction(scope: Construct, props: SlackProps, botTokenSecretArn: string): RustFunction {
  const { config, table } = props;
  const reply = capabilityFunction(scope, 'Reply', config, {
    binary: 'slack-reply',
    description: "Says in a thread what is the platform's to say",
    timeout: Duration.seconds(30),
    environment: {
      TABLE_NAME: table.tableName,
      SLACK_BOT_TOKEN_SECRET_ARN: botTokenSecretArn,
      SLACK_API_URL: config.slack.apiUrl,
      SIGN_UP_URL: config.slack.signUpUrl,
    },
  });
  reply.grant(['dynamodb:GetItem', 'dynamodb:PutItem'], table.tableArn, itemsOf('ONCE#slack.'));
  reply.grant(['secretsmanager:GetSecretValue'], botTokenSecretArn);
  return reply;
}

/** One route, and nothing behind any other. */
function eventsApi(scope: Construct, ingress: RustFunction): apigateway.HttpApi {
  const api = new apigateway.HttpApi(scope, 'Api', {
    apiName: 'carapace-slack',
    description: 'Where Slack sends what happens',
    createDefaultStage: false,
  });
  const [route] = api.addRoutes({
    path: EVENTS_PATH,
    methods: [apigateway.HttpMethod.POST],
    integration: new HttpLambdaIntegration('Ingress', ingress.fn),
  });
  if (route === undefined) throw new Error(`there is no route for POST ${EVENTS_PATH}`);
  Validations.of(route).acknowledge({
    id: 'AwsSolutions-APIG4',
    reason: 'Slack proves itself by a signature over the body, which no authorizer gets to see: the function checks it.',
  });
  new apigateway.HttpStage(scope, 'Stage', {
    httpApi: api,
    stageName: '$default',
    autoDeploy: true,
    // Slack sends a workspace's app some eight events a second at most. The rest is for bursts, and more
    // is nobody's we know: each request costs an invocation before it can be refused.
    throttle: { rateLimit: 50, burstLimit: 100 },
    accessLogSettings: {
      destination: new apigateway.LogGroupLogDestination(
        new logs.LogGroup(scope, 'ApiLog', {
          // The prefix keeps the log's delivery out of one resource policy that has no room for many.
          logGroupName: '/aws/vendedlogs/apigateway/carapace-slack',
          retention: logs.RetentionDays.THREE_MONTHS,
          removalPolicy: RemovalPolicy.DESTROY,
        }),
      ),
      format: AccessLogFormat.custom(ACCESS_LOG),
    },
  });
  return api;
}

/** Who asked, what became of it, how long it took. API Gateway has no variable for a body, and none is wanted. */
const ACCESS_LOG = JSON.stringify({
  request_id: '$context.requestId',
  at: '$context.requestTime',
  source_ip: '$context.identity.sourceIp',
  route: '$context.routeKey',
  status: '$context.status',
  bytes: '$context.dataProcessed',
  latency_ms: '$context.responseLatency',
  integration_error: '$context.integrationErrorMessage',
});
