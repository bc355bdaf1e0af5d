import { describe, expect, test } from 'vitest';
import { synthesised } from './synthesised.ts';

const STACK = 'CarapaceControlPlane';
const app = synthesised('aws');
const template = app.template(STACK);

describe('the way in from Slack', () => {
  const [api] = app.resource(STACK, 'AWS::ApiGatewayV2::Api');
  const [, ingress] = app.resource(STACK, 'AWS::Lambda::Permission');

  test('is one route, and nothing is behind any other', () => {
    const [, { Properties }] = app.resource(STACK, 'AWS::ApiGatewayV2::Route');
    expect(Properties.RouteKey).toBe('POST /slack/events');
    const [integration, { Properties: lambda }] = app.resource(STACK, 'AWS::ApiGatewayV2::Integration');
    expect(Properties.Target).toEqual({ 'Fn::Join': ['', ['integrations/', { Ref: integration }]] });
    expect(lambda).toMatchObject({ IntegrationType: 'AWS_PROXY', PayloadFormatVersion: '2.0' });
  });

  test('reaches slack-ingress from that route alone', () => {
    const [, fn] = Object.entries(app.resources(STACK, 'AWS::Lambda::Function')).find(
      ([id]) => id === ingress.Properties.FunctionName['Fn::GetAtt'][0],
    ) ?? ['', undefined];
    expect(fn?.Properties.FunctionName).toBe('carapace-slack-ingress');
    expect(ingress.Properties.Principal).toBe('apigateway.amazonaws.com');
    expect(JSON.stringify(ingress.Properties.SourceArn)).toContain('/*/*/slack/events');
    expect(JSON.stringify(ingress.Properties.SourceArn)).toContain(api);
  });

  test('is throttled', () => {
    template.hasResourceProperties('AWS::ApiGatewayV2::Stage', {
      StageName: '$default',
      AutoDeploy: true,
      DefaultRouteSettings: { ThrottlingRateLimit: 50, ThrottlingBurstLimit: 100 },
    });
  });

  test('logs who asked and what became of it, and nothing that was said', () => {
    const [, { Properties }] = app.resource(STACK, 'AWS::ApiGatewayV2::Stage');
    const [log] = app.resource(STACK, 'AWS::Logs::LogGroup', /^SlackApiLog/);
    expect(JSON.stringify(Properties.AccessLogSettings.DestinationArn)).toContain(log);
    const format: Record<string, string> = JSON.parse(Properties.AccessLogSettings.Format);
    expect(Object.values(format).sort()).toEqual([
      '$context.dataProcessed',
      '$context.identity.sourceIp',
      '$context.integrationErrorMessage',
      '$context.requestId',
      '$context.requestTime',
      '$context.responseLatency',
      '$context.routeKey',
      '$context.status',
    ]);
  });
});
