import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ArnFormat, type Duration, RemovalPolicy, Stack, Validations } from 'aws-cdk-lib';
import type * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as lambda from 'aws-cdk-lib/aws-lambda';
import * as logs from 'aws-cdk-lib/aws-logs';
import { Construct } from 'constructs';
import { ConfigError } from './config.ts';

export interface RustFunctionProps {
  /** The binary's name. The function is called `carapace-<binary>`. */
  readonly binary: string;
  readonly description: string;
  /** Holds `<binary>/bootstrap`. */
  readonly lambdaDir: string;
  readonly timeout: Duration;
  readonly environment: Readonly<Record<string, string>>;
  /** Only for functions that call the cluster: a network interface of one's own costs start-up time. */
  readonly network?: {
    readonly vpc: ec2.IVpc;
    readonly subnets: ec2.SubnetSelection;
    readonly securityGroup: ec2.ISecurityGroup;
  };
  /** Most invocations at any one time. 0 or undefined: as many as the account allows. */
  readonly maxConcurrency?: number;
}

/**
 * One of our Lambda functions: a static Rust binary, its log group, and a role that may write to
 * that log and nothing else until it is granted more.
 */
export class RustFunction extends Construct {
  readonly fn: lambda.Function;
  readonly role: iam.Role;

  constructor(scope: Construct, id: string, props: RustFunctionProps) {
    super(scope, id);
    const functionName = `carapace-${props.binary}`;
    const log = new logs.LogGroup(this, 'Log', {
      logGroupName: `/aws/lambda/${functionName}`,
      retention: logs.RetentionDays.THREE_MONTHS,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    this.role = new iam.Role(this, 'Role', {
      description: `The function ${functionName}`,
      assumedBy: new iam.ServicePrincipal('lambda.amazonaws.com'),
    });
    this.grant(['logs:CreateLogStream', 'logs:PutLogEvents'], log.logGroupArn);
    if (props.network) this.grantNetworkInterfaces(functionName);

    const { network, maxConcurrency } = props;
    this.fn = new lambda.Function(this, 'Function', {
      functionName,
      description: props.description,
      runtime: lambda.Runtime.PROVIDED_AL2023,
      architecture: lambda.Architecture.X86_64,
      handler: 'bootstrap',
      code: lambda.Code.fromAsset(assetDir(props.lambdaDir, props.binary)),
      role: this.role,
      logGroup: log,
      loggingFormat: lambda.LoggingFormat.JSON,
      tracing: lambda.Tracing.ACTIVE,
      memorySize: 256,
      timeout: props.timeout,
      environment: { ...props.environment },
      ...(network && { vpc: network.vpc, vpcSubnets: network.subnets, securityGroups: [network.securityGroup] }),
      ...(maxConcurrency && { reservedConcurrentExecutions: maxConcurrency }),
    });

    Validations.of(this.role).acknowledge({
      id: 'AwsSolutions-IAM5[Resource::*]',
      reason: props.network
        ? 'X-Ray knows no resources, and Lambda makes network interfaces whose ids nobody knows yet; the code itself is denied both verbs on them.'
        : 'X-Ray knows no resources.',
    });
  }

  /** Allows these actions on this one resource. */
  grant(actions: string[], resource: string, conditions?: Record<string, Record<string, unknown>>): void {
    this.role.addToPolicy(
      new iam.PolicyStatement({ actions, resources: [resource], ...(conditions && { conditions }) }),
    );
  }

  /**
   * Lambda makes the function's network interface with the function's role. The code that runs with
   * the same role must not: it could put an interface of its own into any subnet.
   */
  private grantNetworkInterfaces(functionName: string): void {
    const actions = [
      'ec2:AssignPrivateIpAddresses',
      'ec2:CreateNetworkInterface',
      'ec2:DeleteNetworkInterface',
      'ec2:DescribeNetworkInterfaces',
      'ec2:DescribeSubnets',
      'ec2:UnassignPrivateIpAddresses',
    ];
    this.grant(actions, '*');
    const functionArn = Stack.of(this).formatArn({
      service: 'lambda',
      resource: 'function',
      resourceName: functionName,
      arnFormat: ArnFormat.COLON_RESOURCE_NAME,
    });
    this.role.addToPolicy(
      new iam.PolicyStatement({
        effect: iam.Effect.DENY,
        actions,
        resources: ['*'],
        conditions: { ArnEquals: { 'lambda:SourceFunctionArn': functionArn } },
      }),
    );
  }
}

function assetDir(lambdaDir: string, binary: string): string {
  const dir = join(lambdaDir, binary);
  if (existsSync(join(dir, 'bootstrap'))) return dir;
  throw new ConfigError([
    `lambdaDir: there is no ${join(dir, 'bootstrap')}: build the functions with \`cargo xtask lambdas\`, or give -c lambdaDir=… with the folder that holds them`,
  ]);
}
