<?php
// PDO, with two persistent connections and with what Laravel sends when it connects: see scenario.py.
$given = json_decode(stream_get_contents(STDIN), true);
[$where, $tokens] = [$given['where'], $given['tokens']];
const CARRIER = ['alice' => 'UA', 'bob' => 'AA', 'carol' => 'DL'];
const TRANSACTIONS = 200;

function connect(array $where, bool $emulates): PDO
{
    $db = new PDO("pgsql:host={$where['host']};port={$where['port']};dbname={$where['dbname']}", $where['user'], $where['password'],
        [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_EMULATE_PREPARES => $emulates]);
    $db->exec("set names 'utf8'");
    $db->exec("set search_path to \"app\", \"public\"");
    $db->exec("set time zone 'UTC'");
    $db->exec('set synchronous_commit = on');
    return $db;
}

function query(PDO $db, string $sql, array $values = []): array
{
    $statement = $db->prepare($sql);
    $statement->execute($values);
    return $statement->fetchAll(PDO::FETCH_NUM);
}

function same(mixed $seen, mixed $expected): void
{
    if ($seen !== $expected) {
        throw new LogicException(json_encode($seen) . ' instead of ' . json_encode($expected));
    }
}

function seen(PDO $db, string $user): void
{
    $carrier = CARRIER[$user];
    same(query($db, 'SELECT min(carrier), max(carrier), count(*) FROM orders WHERE id > ?', [0]), [[$carrier, $carrier, 10]]);
}

function fails(string $state, callable $act): void
{
    try {
        $act();
    } catch (PDOException $error) {
        same($error->errorInfo[0] ?? $error->getCode(), $state);
        return;
    }
    throw new LogicException("no error, expected $state");
}

function transaction(PDO $db, array $tokens, string $user, int $number): void
{
    $db->beginTransaction();
    try {
        query($db, "SELECT set_config('bodata.impersonation_token', ?, true)", [$tokens[$user]]);
        seen($db, $user);
        same(query($db, "SELECT current_user, current_setting('work_mem'), nullif(current_setting('app.left', true), ''),
            to_regclass('pg_temp.left_behind')"), [[$user, '4MB', null, null]]);
        switch ($number % 10) {
            case 1:
                $db->exec('SAVEPOINT trans2');
                query($db, 'INSERT INTO orders (carrier) VALUES (?)', [CARRIER[$user]]);
                fails('22012', fn () => query($db, 'SELECT 1 / (count(*) - count(*)) FROM orders'));
                $db->exec('ROLLBACK TO SAVEPOINT trans2');
                break;
            case 3:
                query($db, 'SELECT 1 / (count(*) - count(*)) FROM orders');
                break;
            case 5:
                query($db, "SELECT set_config('work_mem', '5MB', false), set_config('app.left', 'x', false)");
                $db->exec('CREATE TEMP TABLE left_behind (a int)');
                break;
            case 7:
                query($db, "INSERT INTO orders (carrier, note) VALUES (?, 'mine')", [CARRIER[$user]]);
                query($db, 'DELETE FROM orders WHERE note = ?', ['mine']);
                break;
            case 9:
                if ($number % 50 === 49) {
                    $db->exec("SET LOCAL statement_timeout = '50ms'");
                    query($db, 'SELECT pg_sleep(20)');
                }
        }
        seen($db, $user);
        $db->commit();
    } catch (Throwable $error) {
        $db->rollBack();
        throw $error;
    }
}

$emulates = $given['client'] === 'emulated';
for ($number = 0; $number < TRANSACTIONS; $number++) {
    if ($number % (TRANSACTIONS / 2) === 0) {
        $pool = [connect($where, $emulates), connect($where, $emulates)];
    }
    $db = $pool[$number % 2];
    $user = array_keys(CARRIER)[$number % 3];
    $act = fn () => transaction($db, $tokens, $user, $number);
    match (true) {
        $number % 10 === 3 => fails('22012', $act),
        $number % 50 === 49 => fails('57014', $act),
        default => $act(),
    };
    if ($number % 20 === 0) {
        fails('42501', fn () => query($db, 'SELECT count(*) FROM orders'));
    }
}
echo 'done ', TRANSACTIONS, "\n";
