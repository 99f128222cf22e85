<?php
// Laravel's database layer with two connections of its own making: see scenario.py.
use Illuminate\Database\Capsule\Manager;
use Illuminate\Database\Connection;
use Illuminate\Database\Eloquent\Model;
use Illuminate\Database\QueryException;

require 'Illuminate/Database/autoload.php';

$given = json_decode(stream_get_contents(STDIN), true);
const CARRIER = ['alice' => 'UA', 'bob' => 'AA', 'carol' => 'DL'];
const TRANSACTIONS = 200;
const FAILS = 'SELECT 1 / (count(*) - count(*)) FROM orders';

class Order extends Model
{
    public $timestamps = false;
    protected $guarded = [];
}

function same(mixed $seen, mixed $expected): void
{
    if ($seen !== $expected) {
        throw new LogicException(json_encode($seen) . ' instead of ' . json_encode($expected));
    }
}

function seen(string $name, string $user): void
{
    $carriers = Order::on($name)->where('id', '>', 0)->pluck('carrier')->all();
    same($carriers, array_fill(0, 10, CARRIER[$user]));
}

function fails(string $state, callable $act): void
{
    try {
        $act();
    } catch (QueryException $error) {
        same($error->errorInfo[0] ?? $error->getCode(), $state);
        return;
    }
    throw new LogicException("no error, expected $state");
}

function work(Connection $db, array $tokens, string $user, int $number): void
{
    $name = $db->getName();
    $db->select("SELECT set_config('bodata.impersonation_token', ?, true)", [$tokens[$user]]);
    seen($name, $user);
    $state = (array) $db->selectOne("SELECT current_user AS who, current_setting('work_mem') AS memory,
        nullif(current_setting('app.left', true), '') AS left, to_regclass('pg_temp.left_behind') AS made");
    same($state, ['who' => $user, 'memory' => '4MB', 'left' => null, 'made' => null]);
    switch ($number % 10) {
        case 1:
            fails('22012', fn () => $db->transaction(function () use ($db, $name, $user) {
                Order::on($name)->create(['carrier' => CARRIER[$user]]);
                $db->select(FAILS);
            }));
            break;
        case 3:
            $db->select(FAILS);
            break;
        case 5:
            $db->select("SELECT set_config('work_mem', '5MB', false), set_config('app.left', 'x', false)");
            $db->statement('CREATE TEMP TABLE left_behind (a int)');
            break;
        case 7:
            $order = Order::on($name)->create(['carrier' => CARRIER[$user], 'note' => 'mine']);
            $order->update(['note' => 'changed']);
            $order->delete();
            break;
        case 9:
            if ($number % 50 === 49) {
                $db->statement("SET LOCAL statement_timeout = '50ms'");
                $db->select('SELECT pg_sleep(20)');
            }
    }
    seen($name, $user);
}

$manager = new Manager();
foreach (['one', 'other'] as $name) {
    $where = $given['where'];
    $manager->addConnection(['driver' => 'pgsql', 'host' => $where['host'], 'port' => $where['port'], 'database' => $where['dbname'],
        'username' => $where['user'], 'password' => $where['password'], 'charset' => 'utf8', 'prefix' => '', 'schema' => ['app', 'public'],
        'search_path' => 'app,public', 'timezone' => 'UTC', 'sslmode' => 'prefer', 'application_name' => 'laravel'], $name);
}
$manager->bootEloquent();
for ($number = 0; $number < TRANSACTIONS; $number++) {
    if ($number === TRANSACTIONS / 2) {
        array_map(fn ($name) => $manager->getDatabaseManager()->reconnect($name), ['one', 'other']);
    }
    $db = $manager->getConnection(['one', 'other'][$number % 2]);
    $user = array_keys(CARRIER)[$number % 3];
    $act = fn () => $db->transaction(fn () => work($db, $given['tokens'], $user, $number));
    match (true) {
        $number % 10 === 3 => fails('22012', $act),
        $number % 50 === 49 => fails('57014', $act),
        default => $act(),
    };
    if ($number % 20 === 0) {
        fails('42501', fn () => $db->table('orders')->count());
    }
}
echo 'done ', TRANSACTIONS, "\n";
